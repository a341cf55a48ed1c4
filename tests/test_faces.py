"""Aligned faces: the transform against a float64 reference; files that are read late, unusable ones named."""

import os

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.readers.faces import AlignedFaces, CroppedFaces
from helpers.evaluation_runs import png
from utils.faces import TEMPLATE, align, five_points, similarity


def umeyama(points, target):
    """Equations 40 to 43 of Umeyama's paper, with the SVD, in float64."""
    mean, target_mean = points.mean(axis=0), target.mean(axis=0)
    covariance = (target - target_mean).T @ (points - mean) / len(points)
    u, d, vt = np.linalg.svd(covariance)
    signs = np.array([1, np.sign(np.linalg.det(covariance))])
    rotation = u @ np.diag(signs) @ vt
    scale = (d * signs).sum() / ((points - mean) ** 2).sum() * len(points)
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ mean])


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_transform_is_the_least_squares_similarity(seed, mirrored):
    rng = np.random.default_rng(seed)
    points = TEMPLATE * ((-1, 1) if mirrored else (1, 1)) * rng.uniform(0.2, 5) + rng.normal(0, 20, (5, 2))
    assert np.allclose(similarity(points), umeyama(points, TEMPLATE), rtol=1e-9, atol=1e-9)


def test_a_turned_scaled_and_shifted_template_is_brought_back():
    angle, scale, shift = 0.4, 2.5, (30.0, -12.0)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE @ turn.T + shift
    matrix = similarity(points)
    assert np.allclose(matrix[:, :2], np.linalg.inv(turn))
    assert np.allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE)


def smooth_image(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def test_landmarks_on_the_template_leave_the_pixels_alone_and_the_outside_black():
    image = smooth_image(200, 150)
    assert np.array_equal(align(image, TEMPLATE), image[:112, :112])
    shifted = align(image, TEMPLATE - (10, 20))  # the face lies further up and left than the template wants
    assert np.array_equal(shifted[20:, 10:], image[:92, :102])
    assert not shifted[:20].any()
    assert not shifted[:, :10].any()


def test_an_aligned_face_has_its_landmarks_where_the_template_has_them():
    points = np.array([[210.0, 180], [330, 150], [285, 250], [240, 330], [345, 305]])
    matrix = similarity(points)
    for point in points:
        image = np.zeros((480, 640, 3), np.uint8)
        cv2.circle(image, tuple(int(p) for p in point), 8, (255, 255, 255), -1)
        y, x = np.nonzero(align(image, points)[..., 0] > 127)
        expected = matrix[:, :2] @ point + matrix[:, 2]
        assert np.allclose((x.mean(), y.mean()), expected, atol=0.5)


def test_sixty_eight_landmarks_become_five():
    landmarks = np.arange(2 * 68 * 2, dtype=float).reshape(2, 68, 2)
    five = five_points(landmarks)
    # Landmark k of the first face is (2k, 2k + 1); eyes lie between 36 and 39, 42 and 45.
    assert five[0].tolist() == [[75, 76], [87, 88], [60, 61], [96, 97], [108, 109]]
    assert np.array_equal(five[1], five[0] + 136)


@pytest.fixture
def paths(tmp_path):
    """Three 112x112 images of one colour each, and a fourth of 112x96."""
    colours = [(10, 20, 30), (40, 50, 60), (70, 80, 90)]
    for i, data in enumerate([*map(png, colours), png(height=96)]):
        (tmp_path / f"{i}.png").write_bytes(data)
    return [tmp_path / f"{i}.png" for i in range(4)]


def test_aligned_files_are_a_sequence_of_rgb_faces(paths):
    faces = AlignedFaces(paths[:3])
    assert len(faces) == 3
    assert (faces[0:2].shape, faces[0:2].dtype) == ((2, 112, 112, 3), np.uint8)
    assert faces[1:9][:, 5, 7].tolist() == [[40, 50, 60], [70, 80, 90]]
    assert faces[3:].shape == (0, 112, 112, 3)


def test_a_file_of_another_size_is_reported_with_the_tool_and_the_page_that_help(paths):
    faces = AlignedFaces(paths)
    with pytest.raises(
        ValueError,
        match=r"3\.png is 112x96, expected an aligned face of 112x112 .*tools/align\.py.*docs/use\.md",
    ):
        faces[2:4]


def test_missing_and_damaged_files_are_named(paths):
    gone = [paths[0].with_name(f"gone_{i}.jpg") for i in range(6)]
    expected = r"of 7 images these are missing: 6 \(.*gone_0\.jpg, .*gone_4\.jpg, …\)$"
    with pytest.raises(FileNotFoundError, match=expected) as error:
        AlignedFaces([*paths[:1], *gone])
    assert error.value.names == [str(path) for path in gone]
    paths[1].write_bytes(png()[:-12])
    for faces in (AlignedFaces(paths[:3]), CroppedFaces(paths[:3], [TEMPLATE] * 3)):
        with pytest.raises(ValueError, match=r"1\.png: its \d+ bytes are no whole image"):
            faces[0:3]


def test_loose_crops_are_aligned_when_they_are_read(tmp_path):
    image = smooth_image(300, 260)
    cv2.imwrite(str(tmp_path / "face.png"), image[..., ::-1])
    landmarks = np.zeros((1, 68, 2))
    landmarks[0, [36, 39, 42, 45, 30, 48, 54]] = [
        (60, 90), (90, 92), (150, 85), (180, 88), (125, 150), (85, 200), (170, 195)
    ]  # fmt: skip
    five = np.array([[75, 91], [165, 86.5], [125, 150], [85, 200], [170, 195]])
    expected = align(image, five)
    for given_points in (landmarks, five[None]):
        assert np.array_equal(CroppedFaces([tmp_path / "face.png"], given_points)[0:1], expected[None])


def test_landmarks_that_cannot_be_used_are_reported(paths):
    good = np.stack([TEMPLATE] * 3)
    with pytest.raises(ValueError, match=r"landmarks are \(2, 5, 2\) for 3 images"):
        CroppedFaces(paths[:3], good[:2])
    for bad in (np.nan, 50.0):  # not a number; all in one place
        points = good.copy()
        points[1] = bad
        with pytest.raises(ValueError, match=r"1\.png: its landmarks are no face"):
            CroppedFaces(paths[:3], points)


def test_the_fingerprint_follows_files_order_and_landmarks_and_reads_no_image(paths, monkeypatch):
    landmarks = np.stack([TEMPLATE] * 3)

    def fingerprints():
        return [
            AlignedFaces(paths[:3]).fingerprint(),
            AlignedFaces(paths[2::-1]).fingerprint(),
            AlignedFaces(paths[:2]).fingerprint(),
            CroppedFaces(paths[:3], landmarks).fingerprint(),
            CroppedFaces(paths[:3], landmarks + 1).fingerprint(),
        ]

    monkeypatch.setattr(AlignedFaces, "decode", None)
    monkeypatch.setattr(CroppedFaces, "decode", None)
    before = fingerprints()
    assert len(set(before)) == 5
    monkeypatch.chdir(paths[0].parent)
    assert (
        AlignedFaces([path.name for path in paths[:3]]).fingerprint() == before[0]
    )  # from wherever one looks
    assert fingerprints() == before
    os.utime(paths[1], ns=(1, 1))
    assert not set(before) & set(fingerprints())
