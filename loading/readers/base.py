"""What all training data have in common: an image and a label at each index."""

from collections.abc import Iterator
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


def decoded(encoded: bytes | None) -> np.ndarray | None:
    """The same image where it can be used; else None, without a reason: for the loader's plain case."""
    if encoded is None:
        return None
    try:
        image = decode_rgb(encoded)
    except ValueError:
        return None
    return image if image.shape == (SIZE, SIZE, 3) else None


class FaceDataset(Dataset):
    """What all datasets share. A subclass sets `root`, `num_classes`, has `encoded`, `name_of`, `__len__`.

    `warnings` has a line for each thing that a user should know of the data.
    """

    root: Path | None
    num_classes: int
    warnings: list[str] = []

    def encoded(self, index: int) -> tuple[bytes, int]:
        """The encoded image, bytes of any format, and the label of one sample, from 0 to `num_classes` - 1.

        Args:
            index: 0 to `len(self)` - 1; not checked, as in `read`.
        Raises:
            RecordError: it cannot be read, or its label is none.
        """
        raise NotImplementedError

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Image `(112, 112, 3)` uint8 RGB and label of one sample.

        Raises:
            RecordError: see `encoded`; or it is no whole image of this size.
        """
        encoded, label = self.encoded(index)
        return decode(encoded, self.name_of(index)), label

    def read_batch(self, indices: np.ndarray) -> Iterator[tuple[np.ndarray | RecordError, int]]:
        """What `read` gives for many samples, one after another: for the loader, where it is the faster way.

        Args:
            indices: `(n,)` int64, which samples.
        Returns:
            Of each its image and label; of one that cannot be used the reason, and 0. An image is to be read,
            not to be changed: it may be the dataset's own.
        """
        return map(self._read_or_error, indices.tolist())

    def _read_or_error(self, index: int) -> tuple[np.ndarray | RecordError, int]:
        try:
            return self.read(index)
        except RecordError as error:
            return error, 0

    def labels(self) -> np.ndarray:
        """Every image's label, `(len(self),)` int64."""
        raise NotImplementedError

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Arrays by name that tell it from other data of its size, if there can be any; reads no image."""
        return {}

    def name_of(self, index: int) -> str:
        """Where one sample comes from, for messages: "train.rec: record 41", with the whole path.

        Raises nothing: it is asked of samples that cannot be read.
        """
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
