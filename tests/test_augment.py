"""AdaFace's augmentations: torchvision's changes and distributions, independent chances, the fixed order."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from helpers.records import picture
from loading import augment
from loading.augment import Augmentation, crop_box, random_crop, random_low_resolution, random_photometric


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("factor", [0.5, 0.83, 1.0, 1.21, 1.5])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_photometric_changes_are_those_of_torchvision(name, factor):
    image = picture(3)
    expected = getattr(reference, f"adjust_{name}")(torch.from_numpy(image).permute(2, 0, 1), factor)
    found = getattr(augment, name)(image, factor).astype(int)
    assert np.abs(found - expected.permute(1, 2, 0).numpy()).max() <= 1  # torchvision cuts off, this rounds
    if factor == 1:
        assert np.array_equal(found, image)


def test_crops_are_distributed_as_in_torchvision():
    ours = np.array([crop_box(112, 112, generator) for generator in [rng()] for _ in range(4000)])
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


def test_a_crop_stays_at_its_place_on_black():
    image = picture(0) | 1  # nothing is black already
    for seed in range(20):
        top, left, height, width = crop_box(112, 112, rng(seed))
        expected = np.zeros_like(image)
        expected[top : top + height, left : left + width] = image[top : top + height, left : left + width]
        assert np.array_equal(random_crop(image, rng(seed)), expected)


def test_low_resolution_shrinks_and_enlarges_with_every_pair_of_interpolations(monkeypatch):
    calls, resize = [], augment.cv2.resize

    def spy(image, size, interpolation):
        calls.append((image.shape[0], size[0], interpolation))
        return resize(image, size, interpolation=interpolation)

    image, generator = picture(0), rng()
    monkeypatch.setattr(augment.cv2, "resize", spy)
    for _ in range(500):
        assert random_low_resolution(image, generator).shape == (112, 112, 3)
    downs, ups = calls[0::2], calls[1::2]
    assert all(up == (down[1], 112, up[2]) for down, up in zip(downs, ups))
    sides = [down[1] for down in downs]
    assert (min(sides), max(sides)) == (22, 111)  # int(112 * U(.2, 1))
    assert abs(np.mean(sides) - 66.7) < 4 * 25.9 / 500**0.5
    pairs = {(down[2], up[2]) for down, up in zip(downs, ups)}
    assert pairs == {(a, b) for a in augment.INTERPOLATIONS for b in augment.INTERPOLATIONS}


def test_low_resolution_takes_detail_away():
    noise = rng().integers(0, 256, (112, 112, 3), np.uint8)
    changed = [random_low_resolution(noise, rng(seed)).astype(float) for seed in range(100)]
    steps = [np.abs(np.diff(image, axis=1)).mean() for image in changed]
    assert np.mean(steps) < 0.8 * np.abs(np.diff(noise.astype(float), axis=1)).mean()


def test_photometric_factors_and_order_are_random(monkeypatch):
    calls = []
    for name in ("brightness", "contrast", "saturation"):
        monkeypatch.setattr(
            augment, name, lambda image, factor, name=name: calls.append((name, factor)) or image
        )
    generator = rng()
    for _ in range(300):
        random_photometric(picture(0), generator)
    orders = [tuple(name for name, _ in calls[i : i + 3]) for i in range(0, 900, 3)]
    assert len(set(orders)) == 6
    factors = np.array([factor for _, factor in calls])
    assert 0.5 <= factors.min() < 0.51 < 1.49 < factors.max() <= 1.5


def spy_on(monkeypatch) -> list[str]:
    """Replaces the changes by notes of their names."""
    notes = []
    for name in ("random_crop", "random_low_resolution", "random_photometric"):
        monkeypatch.setattr(augment, name, lambda image, _, name=name: notes.append(name) or image)
    monkeypatch.setattr(augment.cv2, "flip", lambda image, axis: notes.append("flip") or image)
    return notes


def test_the_order_is_crop_low_resolution_photometric_flip(monkeypatch):
    notes = spy_on(monkeypatch)
    Augmentation(1.0, 1.0, 1.0, 1.0)(picture(0), rng())
    assert notes == ["random_crop", "random_low_resolution", "random_photometric", "flip"]


def test_each_change_has_its_own_independent_chance(monkeypatch):
    notes = spy_on(monkeypatch)
    change, generator, image, drawn = Augmentation(0.2, 0.5, 0.3, 0.4), rng(), picture(0), []
    for _ in range(4000):
        notes.clear()
        change(image, generator)
        drawn.append(
            [name in notes for name in ("random_crop", "random_low_resolution", "random_photometric", "flip")]
        )
    assert np.allclose(np.mean(drawn, axis=0), [0.2, 0.5, 0.3, 0.4], atol=4 * 0.5 / 4000**0.5)
    assert np.abs(np.corrcoef(np.array(drawn, float).T) - np.eye(4)).max() < 4 / 4000**0.5


def test_without_chances_nothing_happens_and_the_given_image_never_changes():
    image, copy = picture(0), picture(0)
    for seed in range(50):
        assert np.array_equal(Augmentation()(image, rng(seed)), copy)
        Augmentation(1.0, 1.0, 1.0, 1.0)(image, rng(seed))
        assert np.array_equal(image, copy)
    assert np.array_equal(Augmentation(flip_prob=1.0)(image, rng()), copy[:, ::-1])


def test_the_generator_alone_decides():
    change = Augmentation(0.5, 0.5, 0.5, 0.5)
    for seed in range(20):
        assert np.array_equal(change(picture(0), rng(seed)), change(picture(0), rng(seed)))
