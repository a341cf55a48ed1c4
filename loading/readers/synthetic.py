"""Random images, to measure speed without data."""

import numpy as np

from loading.readers.base import FaceDataset
from utils.faces import SIZE


class SyntheticDataset(FaceDataset):
    """64 random images, again and again, to measure speed without data; image i has label i % num_classes."""

    root = None

    def __init__(self, num_classes: int, num_images: int):
        self.num_classes, self._num_images = num_classes, num_images
        self._pool = np.random.default_rng(0).integers(0, 256, (64, SIZE, SIZE, 3), np.uint8)

    def __len__(self) -> int:
        return self._num_images

    def read(self, index: int) -> tuple[np.ndarray, int]:
        return self._pool[index % len(self._pool)], index % self.num_classes

    def labels(self) -> np.ndarray:
        return np.arange(len(self)) % self.num_classes

    def name_of(self, index: int) -> str:
        return f"random image {index}"
