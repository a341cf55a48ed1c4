"""The low-quality augmentations of AdaFace, and the mirror image.

AdaFace: Quality Adaptive Margin for Face Recognition, Minchul Kim, Anil K. Jain, Xiaoming Liu, CVPR 2022,
https://arxiv.org/abs/2204.00964, section 4.1 and its public training code.

Images are `(112, 112, 3)` uint8 RGB arrays. What is random is drawn beforehand, for a whole batch at once
(`draws.py`), so that a sample looks the same whichever process prepares it.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from itertools import permutations

import cv2
import numpy as np

from loading.draws import Draws
from utils.faces import SIZE

CROP_AREA = (0.2, 1.0)  # share of the image
CROP_RATIO = (3 / 4, 4 / 3)  # width / height
CROP_TRIES = 10
LOW_RES_SIDE = (0.2, 1.0)  # share of the side
INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
JITTER = (0.5, 1.5)  # factor on brightness, contrast and saturation
GREY = np.array([[0.299, 0.587, 0.114]] * 3)  # of red, green and blue, for each of them
# Of the colours themselves; with a fourth column for what is added to each.
SAME, SAME_AND_MORE = np.eye(3), np.eye(3, 4)
# Streams of random numbers: whether each change happens, and how.
CHANCE, CROP, LOW_RES, PHOTOMETRIC = range(4)


@dataclass
class Changes:
    """What happens to one image: functions that change it in place, with their arguments, and the mirror."""

    calls: list[tuple[Callable, tuple]] = field(default_factory=list)
    is_mirrored: bool = False

    def __call__(self, image: np.ndarray, out: np.ndarray) -> None:
        """Put the changed image into `out`; both `(112, 112, 3)` uint8. `image` stays what it is."""
        if self.calls:
            np.copyto(out, image)
            for change, arguments in self.calls:
                change(out, *arguments)
            image = out
        if self.is_mirrored:
            cv2.flip(image, 1, out)  # of an image that nothing else changed this is the copy as well
        elif image is not out:
            np.copyto(out, image)


@dataclass(frozen=True)
class Augmentation:
    """Each change happens with its own probability, independently of the others, in the order given here."""

    crop_prob: float = 0.0
    low_res_prob: float = 0.0
    photometric_prob: float = 0.0
    flip_prob: float = 0.0

    def changes(self, draws: Draws) -> list[Changes]:
        """For each image that `draws` are of, what happens to it."""
        chances = draws.uniform(CHANCE, 4) < astuple(self)  # (n, 4)
        changes = [Changes(is_mirrored=mirrored) for mirrored in chances[:, 3].tolist()]
        cropped, shrunk, shifted = (np.flatnonzero(column) for column in chances.T[:3])
        if len(cropped):
            boxes = crop_boxes(draws.uniform(CROP, 2 * CROP_TRIES + 2, cropped), SIZE, SIZE)
            for row, box in zip(cropped.tolist(), boxes.tolist()):
                changes[row].calls.append((crop, box))
        if len(shrunk):
            for row, how in zip(shrunk.tolist(), resolutions(draws.uniform(LOW_RES, 3, shrunk))):
                changes[row].calls.append((lower_resolution, how))
        if len(shifted):
            colours = colour_changes(draws.uniform(PHOTOMETRIC, 4, shifted))
            for row, of_image in zip(shifted.tolist(), colours):
                changes[row].calls += [(change, (factor,)) for change, factor in of_image]
        return changes


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
    sides = (SIZE * _between(uniform[:, 0], *LOW_RES_SIDE)).astype(np.int64)
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
    cv2.convertScaleAbs(image, image, factor)  # nothing is below 0


def contrast(image: np.ndarray, factor: float) -> None:
    """Mixes the image with the mean of its grey version."""
    (red, green, blue), matrix = cv2.mean(image)[:3], SAME_AND_MORE * factor
    matrix[:, 3] = (1 - factor) * (0.299 * red + 0.587 * green + 0.114 * blue)
    cv2.transform(image, matrix, image)


def saturation(image: np.ndarray, factor: float) -> None:
    """Mixes the image with its grey version."""
    cv2.transform(image, SAME * factor + GREY * (1 - factor), image)


def _between(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * uniform
