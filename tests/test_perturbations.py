"""Perturbations: what they do to single pixels, how far they go, and that they always do the same."""

import cv2
import numpy as np
import pytest

from eval.robustness.perturbations import CENTRE, PERTURBATIONS, SIZE, parse_choices

NAMES = list(PERTURBATIONS)


@pytest.fixture(scope="module")
def faces():
    """Smooth coloured images with a detail or two, `(6, 112, 112, 3)`."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (6, 9, 9, 3), dtype=np.uint8)
    return np.stack([cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for image in coarse])


def apply(name, images, amount, seed=0):
    return PERTURBATIONS[name].apply(images, amount, seed)


def dots(count, x, y):
    """Black images with a soft white dot, so that a place can be measured to a part of a pixel."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[y, x] = 255
    image = cv2.GaussianBlur(image, (0, 0), 2)
    return np.stack([cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)] * count)


def places(images):
    """The centre of mass of each image, `(N, 2)`: x and y, from the centre of the image."""
    weight = images.astype(float).sum(axis=3)
    grid = np.arange(SIZE)
    total = weight.sum(axis=(1, 2))
    x, y = (weight.sum(axis=1) @ grid, weight.sum(axis=2) @ grid)
    return np.stack([x, y], axis=1) / total[:, None] - CENTRE


@pytest.mark.parametrize("name", NAMES)
def test_the_clean_amount_changes_no_bit(name, faces):
    assert np.array_equal(apply(name, faces, PERTURBATIONS[name].clean), faces)


@pytest.mark.parametrize("name", NAMES)
def test_images_keep_shape_and_type_and_the_given_ones_stay_as_they_are(name, faces):
    before = faces.copy()
    perturbed = apply(name, faces, PERTURBATIONS[name].amounts[-1])
    assert (perturbed.shape, perturbed.dtype) == (faces.shape, np.uint8)
    assert np.array_equal(faces, before)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_perturbed_in_the_same_way_whatever_images_come_with_it(name, faces):
    amount = PERTURBATIONS[name].amounts[1]
    perturbed = apply(name, faces, amount)
    assert np.array_equal(apply(name, faces, amount), perturbed)
    assert np.array_equal(apply(name, faces[:2], amount), perturbed[:2])


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_amount_leads_further_from_the_image(name, faces):
    distance = [
        np.abs(apply(name, faces, amount).astype(int) - faces).mean(axis=(1, 2, 3))
        for amount in PERTURBATIONS[name].amounts
    ]
    assert (np.diff(distance, axis=0) > 0).all()
    assert (distance[0] > 0).all()


@pytest.mark.parametrize("name", ["rotation", "scale", "shift", "noise"])
def test_images_and_seeds_have_directions_of_their_own(name, faces):
    same = np.stack([faces[0]] * 40)
    perturbed = apply(name, same, PERTURBATIONS[name].amounts[-1])
    kinds = {image.tobytes() for image in perturbed}
    assert len(kinds) == (2 if name in ("rotation", "scale") else 40)
    assert not np.array_equal(apply(name, same, PERTURBATIONS[name].amounts[-1], seed=1), perturbed)


def test_a_quarter_turn_is_that_of_numpy_one_way_or_the_other(faces):
    turned = apply("rotation", np.stack([faces[0]] * 40), 90)
    clockwise, other = (np.rot90(faces[0], k).astype(int) for k in (-1, 1))
    is_clockwise = np.array([np.abs(image - clockwise).max() <= 1 for image in turned])
    is_other = np.array([np.abs(image - other).max() <= 1 for image in turned])
    assert (is_clockwise ^ is_other).all()
    assert 5 < is_clockwise.sum() < 35


def test_rotation_turns_by_the_angle_and_keeps_the_distance():
    found = places(apply("rotation", dots(20, x=86, y=56), 20))
    start = np.array([86, 56]) - CENTRE
    angle = np.degrees(np.arctan2(found[:, 1], found[:, 0]) - np.arctan2(start[1], start[0]))
    assert np.allclose(np.abs(angle), 20, atol=0.2)
    assert np.allclose(np.linalg.norm(found, axis=1), np.linalg.norm(start), atol=0.1)


def test_scale_multiplies_or_divides_the_distance_from_the_centre():
    start = np.linalg.norm(np.array([76, 40]) - CENTRE)
    ratio = np.linalg.norm(places(apply("scale", dots(20, x=76, y=40), 0.25)), axis=1) / start
    assert np.allclose(np.minimum(ratio, 1 / ratio), 0.8, atol=0.005)
    assert {bool(grown) for grown in ratio > 1} == {True, False}


def test_a_shift_has_the_length_that_was_asked_for_and_any_direction():
    start = np.array([60, 50]) - CENTRE
    moved = places(apply("shift", dots(60, x=60, y=50), 0.1)) - start
    assert np.allclose(np.linalg.norm(moved, axis=1), 11.2, atol=0.1)
    quadrants = {(bool(x > 0), bool(y > 0)) for x, y in moved}
    assert len(quadrants) == 4


@pytest.mark.parametrize(("name", "amount"), [("rotation", 30), ("shift", 0.3)])
def test_what_comes_from_outside_is_black(name, amount):
    white = np.full((8, SIZE, SIZE, 3), 255, np.uint8)
    warped = apply(name, white, amount)
    assert (warped == 0).any(axis=(1, 2, 3)).all()
    assert (warped[:, 50:62, 50:62] == 255).all()


def test_resolution_one_leaves_the_mean_colour(faces):
    flat = apply("resolution", faces, 1)
    assert (flat == flat[:, :1, :1]).all()
    assert np.abs(flat[:, 0, 0] - faces.mean(axis=(1, 2))).max() <= 0.5


def test_half_the_resolution_cannot_tell_a_fine_chequerboard_from_grey():
    board = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    board[:, ::2, ::2] = board[:, 1::2, 1::2] = 200
    assert (apply("resolution", board, 56) == 100).all()


def test_blur_spreads_a_point_by_sigma():
    point = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    point[0, 50:62, 50:62] = 255  # a square of 12 pixels, whose own variance is (12² - 1) / 12
    profile = apply("blur", point, 4)[0, ..., 0].astype(float).sum(axis=0)
    x = np.arange(SIZE) - np.average(np.arange(SIZE), weights=profile)
    assert np.average(x**2, weights=profile) == pytest.approx(143 / 12 + 4**2, rel=0.03)


def test_noise_has_the_deviation_that_was_asked_for_and_no_direction():
    grey = np.full((4, SIZE, SIZE, 3), 128, np.uint8)
    noise = apply("noise", grey, 20).astype(float) - 128
    assert noise.std() == pytest.approx(20, rel=0.02)
    assert abs(noise.mean()) < 0.2
    extreme = apply("noise", np.full((1, SIZE, SIZE, 3), 250, np.uint8), 60)
    assert (extreme == 255).mean() == pytest.approx(0.470, abs=0.02)  # P(noise > 4.5) = 1 - Φ(0.075)


def test_jpeg_keeps_colours_in_their_order():
    red = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    red[..., 0] = 200
    stored = apply("jpeg", red, 50).astype(int)
    assert np.abs(stored - red).max() < 12


# ------------------------------------------------------------------------------------------ choice of amounts


def test_without_a_choice_all_are_taken_clean_first():
    chosen = parse_choices([])
    assert list(chosen) == NAMES
    for name, amounts in chosen.items():
        assert amounts == (PERTURBATIONS[name].clean, *PERTURBATIONS[name].amounts)


def test_amounts_are_sorted_from_mild_to_severe_and_counted_once():
    chosen = parse_choices(["resolution=14,56,14", "shift=0.3,0,.1", "blur"])
    assert chosen == {"resolution": (112, 56, 14), "shift": (0, 0.1, 0.3), "blur": (0, 1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (["rotaton=5"], "perturbation 'rotaton'; did you mean 'rotation'.; allowed: rotation, scale, shift"),
        ([""], "perturbation ''; allowed: "),
        (["blur", "blur=2"], "'blur' is named twice"),
        (["blur="], "amount '': blur takes numbers from 0 to 112"),
        (["blur=2,x"], "amount 'x': blur takes numbers from 0 to 112"),
        (["blur=nan"], "amount nan: blur takes numbers"),
        (["rotation=-5"], "amount -5: rotation takes numbers from 0 to 180"),
        (["resolution=0"], "amount 0: resolution takes whole numbers from 1 to 112"),
        (["resolution=20.5"], "amount '20.5': resolution takes whole numbers"),
        (["jpeg=101"], "amount 101: jpeg takes whole numbers from 1 to 100"),
    ],
)
def test_a_wrong_choice_is_reported_in_one_line(choice, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_choices(choice)
    assert "\n" not in str(error.value)
