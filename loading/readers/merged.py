"""Several data sets, one after another."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from loading.readers.base import FaceDataset
from utils.record_index import RecordError


class MergedDataset(FaceDataset):
    """Several datasets one after another; the labels of each begin where those of the one before end."""

    def __init__(self, datasets: Sequence[FaceDataset]):
        self.datasets, self.root = datasets, datasets[0].root
        self._starts = list(accumulate((len(dataset) for dataset in datasets), initial=0))
        self._first_labels = list(accumulate((dataset.num_classes for dataset in datasets), initial=0))
        self.num_classes = self._first_labels[-1]
        self.warnings = [text for dataset in datasets for text in dataset.warnings]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> tuple[np.ndarray, int]:
        part, index = self._locate(index)
        image, label = self.datasets[part].read(index)
        return image, label + self._first_labels[part]

    def encoded(self, index: int) -> tuple[bytes, int]:
        part, index = self._locate(index)
        encoded, label = self.datasets[part].encoded(index)
        return encoded, label + self._first_labels[part]

    def labels(self) -> np.ndarray:
        parts = zip(self.datasets, self._first_labels)
        return np.concatenate([dataset.labels() + first for dataset, first in parts])

    def read_batch(self, indices: np.ndarray) -> Iterator[tuple[np.ndarray | RecordError, int]]:
        """Each part reads what is its own."""
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        of_part = {
            part: self.datasets[part].read_batch(indices[parts == part] - self._starts[part])
            for part in np.unique(parts).tolist()
        }
        for part in parts.tolist():
            image, label = next(of_part[part])
            yield image, label if isinstance(image, RecordError) else label + self._first_labels[part]

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """That of each part, and where the parts begin."""
        parts = {"parts": (np.array(self._starts), np.array(self._first_labels))}
        for number, dataset in enumerate(self.datasets):
            parts |= {f"{name} of folder {number}": arrays for name, arrays in dataset.content().items()}
        return parts

    def name_of(self, index: int) -> str:
        part, index = self._locate(index)
        return self.datasets[part].name_of(index)

    def _locate(self, index: int) -> tuple[int, int]:
        """Which dataset, and the index there."""
        part = bisect_right(self._starts, index) - 1
        return part, index - self._starts[part]
