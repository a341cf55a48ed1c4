"""What all training data have in common: an image and a label at each index."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from loading.record_layout import count_labels
from utils.faces import ALIGNED, SIZE, decode_rgb
from utils.record_index import RecordError


def decode(encoded: bytes, name: str) -> np.ndarray:
    """An encoded image as `(112, 112, 3)` uint8 RGB; `name` is what an error calls it.

    Raises:
        RecordError: OpenCV cannot decode it, or it has another size.
    """
    try:
        image = decode_rgb(encoded)
    except ValueError as error:
        raise RecordError(f"{name}: {error}") from None
    if image.shape[:2] != (SIZE, SIZE):
        raise RecordError(
            f"{name}: the image has {image.shape[1]}×{image.shape[0]} pixels, expected {ALIGNED}"
        )
    return image


def decodes(encoded: bytes | None, out: np.ndarray) -> bool:
    """Whether it is an image of the size of `out`; it stands there then."""
    try:
        return encoded is not None and decode_rgb(encoded, out).shape == out.shape
    except ValueError:
        return False


class FaceDataset(Dataset):
    """What all datasets share. A subclass sets `root`, `num_classes`, has `encoded`, `name_of`, `__len__`.

    `warnings` has a line for each thing that a user should know of the data.
    """

    root: Path | None
    num_classes: int
    warnings: list[str] = []

    def encoded(self, index: int) -> tuple[bytes, int]:
        """The encoded image and the label of one sample; RecordError where it cannot be read."""
        raise NotImplementedError

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Image `(112, 112, 3)` uint8 RGB and label of one sample; RecordError where it cannot be used."""
        encoded, label = self.encoded(index)
        return decode(encoded, self.name_of(index)), label

    def read_batch(
        self, indices: np.ndarray, images: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, dict[int, RecordError]]:
        """What `read` gives for many samples at once: the loader's way, where it is the faster one.

        Args:
            indices: `(n,)`, which samples.
            images: n arrays `(112, 112, 3)` uint8, which the images are written to.
        Returns:
            Labels `(n,)` int64, and why a sample cannot be used, by its place among the indices.
        """
        labels, errors = np.zeros(len(indices), np.int64), {}
        for place, index in enumerate(indices.tolist()):
            try:
                images[place][:], labels[place] = self.read(index)
            except RecordError as error:
                errors[place] = error
        return labels, errors

    def labels(self) -> np.ndarray:
        """Every image's label, `(len(self),)` int64."""
        raise NotImplementedError

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Arrays by name that tell it from other data of its size, if there can be any; reads no image."""
        return {}

    def name_of(self, index: int) -> str:
        """Where one sample comes from, for messages: "train.rec: record 41", with the whole path."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} images")
        image, label = self.read(index % len(self))
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), label


def check_classes(
    dataset: FaceDataset, source: Path, labels: np.ndarray, declared: int | None
) -> tuple[int, list[str]]:
    """The number of classes and what to warn of, as `count_labels`; `labels` `(N,)` int64 may be any.

    Raises:
        RecordError: a label is below 0 or not below `declared`; the image is named.
    """
    allowed = (labels >= 0) & (labels < (declared or np.inf))
    if not allowed.all():
        wrong = int(np.argmin(allowed))
        range_ = f"0…{declared - 1} (num_classes)" if declared else "integers from 0"
        raise RecordError(f"{dataset.name_of(wrong)} has label {labels[wrong]}; allowed: {range_}")
    return count_labels(source, labels, declared)
