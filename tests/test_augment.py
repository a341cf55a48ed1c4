"""AdaFace's augmentations: torchvision's changes and distributions, independent chances, the fixed order."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from helpers.records import picture
from loading import augment
from loading.augment import Augmentation, colour_changes, crop_boxes, resolutions
from loading.draws import Draws

ALL = Augmentation(1.0, 1.0, 1.0, 1.0)


def changed(images: list[np.ndarray], augmentation: Augmentation, draws: Draws) -> list[np.ndarray]:
    """What becomes of the images of a batch; they themselves stay what they are."""
    out = [np.full_like(image, 7) for image in images]
    for change, image, place in zip(augmentation.changes(draws), images, out, strict=True):
        before = image.copy()
        change(image, place)
        assert np.array_equal(image, before)
    return out


def uniform(n: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, count))


def boxes(n: int) -> np.ndarray:
    return crop_boxes(uniform(n, 2 * augment.CROP_TRIES + 2), 112, 112)


def batch(n: int) -> list[np.ndarray]:
    return [picture(i) for i in range(n)]


@pytest.mark.parametrize("factor", [0.5, 0.83, 1.0, 1.21, 1.5])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_photometric_changes_are_those_of_torchvision(name, factor):
    image = picture(3)
    expected = getattr(reference, f"adjust_{name}")(torch.from_numpy(image).permute(2, 0, 1), factor)
    getattr(augment, name)(image, factor)
    # torchvision cuts off, this rounds
    assert np.abs(image.astype(int) - expected.permute(1, 2, 0).numpy()).max() <= 1
    if factor == 1:
        assert np.array_equal(image, picture(3))


def test_crops_are_distributed_as_in_torchvision():
    ours = boxes(4000)
    torch.manual_seed(0)
    blank = torch.empty(3, 112, 112)
    theirs = [RandomResizedCrop.get_params(blank, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]

    def numbers(boxes):  # area, ratio and place of each
        top, left, height, width = np.array(boxes, float).T
        return np.stack([height * width / 112**2, np.log(width / height), top, left])

    for found, expected in zip(numbers(ours), numbers(theirs)):
        error = np.hypot(found.std(), expected.std()) / 4000**0.5
        assert abs(found.mean() - expected.mean()) < 4 * error
        assert abs(found.std() / expected.std() - 1) < 0.06
    assert ours.min() >= 0
    assert (ours[:, :2] + ours[:, 2:]).max() <= 112


def test_a_crop_that_never_fits_leaves_the_whole_image():
    large_and_wide = np.full((1, 22), 1 - 2**-32)  # area 1, ratio 4/3: wider than the image
    assert crop_boxes(large_and_wide, 112, 112).tolist() == [[0, 0, 112, 112]]
    large_and_wide[0, [3, 13]] = 0.0  # the fourth try: area 0.2, ratio 3/4
    assert crop_boxes(large_and_wide, 112, 112).tolist() == [[54, 69, 58, 43]]


def test_a_crop_stays_at_its_place_on_black():
    for top, left, height, width in boxes(20).tolist():
        image = picture(0) | 1  # nothing is black already
        expected = np.zeros_like(image)
        expected[top : top + height, left : left + width] = image[top : top + height, left : left + width]
        augment.crop(image, top, left, height, width)
        assert np.array_equal(image, expected)


def test_low_resolution_shrinks_and_enlarges_with_every_pair_of_interpolations(monkeypatch):
    calls, resize, plain = [], augment.cv2.resize, picture(0)

    def spy(image, size, *out, interpolation):
        calls.append((image.shape[0], size[0], interpolation))
        return resize(image, size, *out, interpolation=interpolation)

    monkeypatch.setattr(augment.cv2, "resize", spy)
    for how in resolutions(uniform(500, 3)):
        image = plain.copy()
        augment.lower_resolution(image, *how)
        small = resize(plain, (how[0], how[0]), interpolation=how[1])
        assert np.array_equal(image, resize(small, (112, 112), interpolation=how[2]))
    downs, ups = calls[0::2], calls[1::2]
    assert all(up == (down[1], 112, up[2]) for down, up in zip(downs, ups))
    sides = [down[1] for down in downs]
    assert (min(sides), max(sides)) == (22, 111)  # int(112 * U(.2, 1))
    assert abs(np.mean(sides) - 66.7) < 4 * 25.9 / 500**0.5
    pairs = {(down[2], up[2]) for down, up in zip(downs, ups)}
    assert pairs == {(a, b) for a in augment.INTERPOLATIONS for b in augment.INTERPOLATIONS}


def test_low_resolution_takes_detail_away():
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    steps = []
    for how in resolutions(uniform(100, 3)):
        image = noise.copy()
        augment.lower_resolution(image, *how)
        steps.append(np.abs(np.diff(image.astype(float), axis=1)).mean())
    assert np.mean(steps) < 0.8 * np.abs(np.diff(noise.astype(float), axis=1)).mean()


def test_photometric_factors_and_order_are_random():
    changes = colour_changes(uniform(300, 4))
    orders = [tuple(change.__name__ for change, _ in of_image) for of_image in changes]
    assert len(set(orders)) == 6
    assert all(set(order) == {"brightness", "contrast", "saturation"} for order in orders)
    factors = np.array([factor for of_image in changes for _, factor in of_image])
    assert 0.5 <= factors.min() < 0.51 < 1.49 < factors.max() <= 1.5


def spy_on(monkeypatch) -> list[tuple[str, int]]:
    """Replaces the changes by notes of their names, and of the images that they are for."""
    notes = []

    def note(name):
        return lambda image, *_: notes.append((name, int(image[0, 0, 0])))

    for name in ("crop", "lower_resolution"):
        monkeypatch.setattr(augment, name, note(name))
    monkeypatch.setattr(augment, "colour_changes", lambda uniform: [[(note("colour"), 1.0)]] * len(uniform))
    monkeypatch.setattr(augment.cv2, "flip", note("flip"))
    return notes


NAMES = ["crop", "lower_resolution", "colour", "flip"]


def test_the_order_is_crop_low_resolution_photometric_flip(monkeypatch):
    notes = spy_on(monkeypatch)
    images = [np.full((112, 112, 3), i, np.uint8) for i in range(3)]
    changed(images, ALL, Draws((1,), np.arange(3)))
    for i in range(3):
        assert [name for name, image in notes if image == i] == NAMES


def test_each_change_has_its_own_independent_chance(monkeypatch):
    notes, num_images = spy_on(monkeypatch), 4000
    images = [np.full((1, 1, 3), i, np.uint8) for i in range(250)]
    change, drawn = Augmentation(0.2, 0.5, 0.3, 0.4), np.zeros((num_images, 4))
    for start in range(0, num_images, 250):
        notes.clear()
        changed(images, change, Draws((1,), np.arange(start, start + 250)))
        for name, image in notes:
            drawn[start + image, NAMES.index(name)] = 1
    assert np.allclose(np.mean(drawn, axis=0), [0.2, 0.5, 0.3, 0.4], atol=4 * 0.5 / num_images**0.5)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 4 / num_images**0.5


def test_without_chances_nothing_happens_and_a_mirror_image_is_one():
    images = changed(batch(5), Augmentation(), Draws((1,), np.arange(5)))
    assert all(np.array_equal(image, picture(i)) for i, image in enumerate(images))
    images = changed(images, Augmentation(flip_prob=1.0), Draws((1,), np.arange(5)))
    assert all(np.array_equal(image, picture(i)[:, ::-1]) for i, image in enumerate(images))
    darker = Augmentation(photometric_prob=1.0)
    plain = changed(batch(5), darker, Draws((1,), np.arange(5)))
    images = changed(batch(5), replace(darker, flip_prob=1.0), Draws((1,), np.arange(5)))
    assert all(np.array_equal(image, other[:, ::-1]) for image, other in zip(images, plain, strict=True))


def test_an_image_changes_alike_whatever_else_is_in_its_batch():
    order, half = [5, 0, 7], Augmentation(0.5, 0.5, 0.5, 0.5)
    together = changed(batch(8), half, Draws((1, 2), np.arange(8)))
    some = changed([picture(i) for i in order], half, Draws((1, 2), np.array(order)))
    assert all(np.array_equal(image, together[i]) for i, image in zip(order, some))
    assert not all(np.array_equal(image, picture(i)) for i, image in enumerate(together))
