"""The low-quality augmentations of AdaFace, and the mirror image.

AdaFace: Quality Adaptive Margin for Face Recognition, Minchul Kim, Anil K. Jain, Xiaoming Liu, CVPR 2022,
https://arxiv.org/abs/2204.00964, section 4.1 and its public training code.

Images are `(112, 112, 3)` uint8 RGB arrays. All randomness comes from the generator that is handed in, so
that a sample looks the same whichever process prepares it.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

CROP_AREA = (0.2, 1.0)  # share of the image
CROP_RATIO = (3 / 4, 4 / 3)  # width / height
CROP_TRIES = 10
LOW_RES_SIDE = (0.2, 1.0)  # share of the side
INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
JITTER = (0.5, 1.5)  # factor on brightness, contrast and saturation


@dataclass(frozen=True)
class Augmentation:
    """Each change happens with its own probability, independently of the others, in the order given here."""

    crop_prob: float = 0.0
    low_res_prob: float = 0.0
    photometric_prob: float = 0.0
    flip_prob: float = 0.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The augmented image; the given one is not changed, and returned where nothing happens."""
        if rng.random() < self.crop_prob:
            image = random_crop(image, rng)
        if rng.random() < self.low_res_prob:
            image = random_low_resolution(image, rng)
        if rng.random() < self.photometric_prob:
            image = random_photometric(image, rng)
        if rng.random() < self.flip_prob:
            image = cv2.flip(image, 1)  # faster than a strided view, which has to be copied later
        return image


def random_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random rectangle stays at its place, at its size; the rest turns black."""
    top, left, height, width = crop_box(image.shape[0], image.shape[1], rng)
    cropped = np.zeros_like(image)
    part = np.s_[top : top + height, left : left + width]
    cropped[part] = image[part]
    return cropped


def crop_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a rectangle, drawn like torchvision's RandomResizedCrop does.

    Area uniform in CROP_AREA, aspect ratio log-uniform in CROP_RATIO; what does not fit is drawn again, and
    after CROP_TRIES the whole image stays (torchvision's fallback as well, for a square image).
    """
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return 0, 0, height, width


def random_low_resolution(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shrunk to a random side and enlarged again, each with an interpolation of its own."""
    side = int(image.shape[0] * rng.uniform(*LOW_RES_SIDE))
    down, up = rng.choice(INTERPOLATIONS, 2)
    small = cv2.resize(image, (side, side), interpolation=int(down))
    return cv2.resize(small, image.shape[1::-1], interpolation=int(up))


def random_photometric(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation, each by its own factor, in random order."""
    changes = (brightness, contrast, saturation)
    factors = rng.uniform(*JITTER, size=len(changes))
    for i in rng.permutation(len(changes)):
        image = changes[i](image, factors[i])
    return image


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Mixes the image with black, `factor` of the image; a factor above 1 leads away from black."""
    return _mix(image, 0.0, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Mixes the image with the mean of its grey version."""
    return _mix(image, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean(), factor)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Mixes the image with its grey version."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0.0)


def _mix(image: np.ndarray, grey: float, factor: float) -> np.ndarray:
    table = np.arange(256) * factor + grey * (1 - factor)
    return cv2.LUT(image, np.rint(table.clip(0, 255)).astype(np.uint8))
