"""The low-quality augmentations of AdaFace, and the mirror image.

AdaFace: Quality Adaptive Margin for Face Recognition, Minchul Kim, Anil K. Jain, Xiaoming Liu, CVPR 2022,
https://arxiv.org/abs/2204.00964, section 4.1 and its public training code.

Images are `(112, 112, 3)` uint8 RGB arrays, changed in place. What is random is drawn beforehand, for a whole
batch at once (`draws.py`), so that a sample looks the same whichever process prepares it.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import permutations

import cv2
import numpy as np

from loading.draws import Draws

CROP_AREA = (0.2, 1.0)  # share of the image
CROP_RATIO = (3 / 4, 4 / 3)  # width / height
CROP_TRIES = 10
LOW_RES_SIDE = (0.2, 1.0)  # share of the side
INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
JITTER = (0.5, 1.5)  # factor on brightness, contrast and saturation
GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue
# Streams of random numbers: whether each change happens, and how.
CHANCE, CROP, LOW_RES, PHOTOMETRIC = range(4)


@dataclass(frozen=True)
class Augmentation:
    """Each change happens with its own probability, independently of the others, in the order given here."""

    crop_prob: float = 0.0
    low_res_prob: float = 0.0
    photometric_prob: float = 0.0
    flip_prob: float = 0.0

    def __call__(self, images: Sequence[np.ndarray], draws: Draws) -> None:
        """Change the images of a batch, in place."""
        chances = draws.uniform(CHANCE, 4) < astuple(self)  # (n, 4)
        cropped, shrunk, shifted, flipped = (np.flatnonzero(column) for column in chances.T)
        if len(cropped):
            boxes = crop_boxes(draws.uniform(CROP, 2 * CROP_TRIES + 2, cropped), *images[0].shape[:2])
            for row, box in zip(cropped.tolist(), boxes.tolist()):
                crop(images[row], *box)
        if len(shrunk):
            for row, how in zip(shrunk.tolist(), resolutions(draws.uniform(LOW_RES, 3, shrunk))):
                lower_resolution(images[row], *how)
        if len(shifted):
            for row, changes in zip(shifted.tolist(), colour_changes(draws.uniform(PHOTOMETRIC, 4, shifted))):
                for change, factor in changes:
                    change(images[row], factor)
        for row in flipped.tolist():
            cv2.flip(images[row], 1, images[row])


def crop(image: np.ndarray, top: int, left: int, height: int, width: int) -> None:
    """A rectangle stays at its place, at its size; the rest turns black."""
    bottom, right = top + height, left + width
    image[:top], image[bottom:] = 0, 0
    image[top:bottom, :left], image[top:bottom, right:] = 0, 0


def crop_boxes(uniform: np.ndarray, height: int, width: int) -> np.ndarray:
    """Top, left, height and width `(n, 4)` of rectangles, drawn like torchvision's RandomResizedCrop does.

    Area uniform in CROP_AREA, aspect ratio log-uniform in CROP_RATIO; what does not fit is drawn again, and
    after CROP_TRIES the whole image stays (torchvision's fallback as well, for a square image).

    Args:
        uniform: `(n, 2 * CROP_TRIES + 2)` in [0, 1): areas and ratios to be tried, and the place.
    """
    areas, ratios, place = np.split(uniform, [CROP_TRIES, 2 * CROP_TRIES], axis=1)
    areas, ratios = (
        height * width * _between(areas, *CROP_AREA),
        np.exp(_between(ratios, *np.log(CROP_RATIO))),
    )
    sides = np.rint(np.sqrt([areas / ratios, areas * ratios])).astype(np.int64)  # (2, n, tries)
    whole = np.array([height, width])
    fits = ((sides > 0) & (sides <= whole[:, None, None])).all(0)
    first = sides[:, np.arange(len(fits)), fits.argmax(1)].T  # (n, 2): the first that fits
    size = np.where(fits.any(1)[:, None], first, whole)
    return np.hstack([(place * (whole - size + 1)).astype(np.int64), size])


def resolutions(uniform: np.ndarray) -> list[tuple[int, int, int]]:
    """For `lower_resolution`: side, and two of INTERPOLATIONS, from `(n, 3)` numbers in [0, 1)."""
    sides = (112 * _between(uniform[:, 0], *LOW_RES_SIDE)).astype(np.int64)
    choices = (len(INTERPOLATIONS) * uniform[:, 1:]).astype(np.int64)
    return [
        (side, INTERPOLATIONS[down], INTERPOLATIONS[up])
        for side, (down, up) in zip(sides.tolist(), choices.tolist())
    ]


def lower_resolution(image: np.ndarray, side: int, down: int, up: int) -> None:
    """Shrunk to a side and enlarged again, each with an interpolation of its own."""
    small = cv2.resize(image, (side, side), interpolation=down)
    cv2.resize(small, image.shape[1::-1], image, interpolation=up)


def colour_changes(uniform: np.ndarray) -> list[list[tuple]]:
    """Brightness, contrast and saturation in random order, each with its factor, from `(n, 4)` in [0, 1)."""
    orders = list(permutations((brightness, contrast, saturation)))
    factors, chosen = _between(uniform[:, :3], *JITTER), (len(orders) * uniform[:, 3]).astype(np.int64)
    return [list(zip(orders[order], row)) for order, row in zip(chosen.tolist(), factors.tolist())]


def brightness(image: np.ndarray, factor: float) -> None:
    """Mixes the image with black, `factor` of the image; a factor above 1 leads away from black."""
    cv2.transform(image, np.eye(3) * factor, image)


def contrast(image: np.ndarray, factor: float) -> None:
    """Mixes the image with the mean of its grey version."""
    grey = GREY @ cv2.mean(image)[:3]
    cv2.transform(image, np.hstack([np.eye(3) * factor, np.full((3, 1), grey * (1 - factor))]), image)


def saturation(image: np.ndarray, factor: float) -> None:
    """Mixes the image with its grey version."""
    cv2.transform(image, np.eye(3) * factor + GREY * (1 - factor), image)


def _between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * uniform
