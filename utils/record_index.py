"""The `.idx` of a RecordIO file: lines `key<TAB>byte offset` in any order, where each record starts."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np


class RecordError(ValueError):
    """Data that cannot be used. One line that names the file and the record."""


class RecordIndex:
    """Keys and offsets, checked against the size of the `.rec`. 17 million lines take a few seconds.

    `keys` is the `(N,)` int64 array of keys in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: a malformed line, a key that occurs twice, an offset that cannot be one of this `.rec`.
    """

    def __init__(self, path: str | Path, rec_path: Path, rec_size: int):
        self.path, self.rec_path, self.rec_size = Path(path), rec_path, rec_size
        table = _load(self.path)  # (N, 2)
        self.keys, offsets = (np.ascontiguousarray(column) for column in table.T)
        if np.all(self.keys[1:] > self.keys[:-1]):  # the usual case: no sorting, no second copy in memory
            self._sorted_keys, self._offsets = self.keys, offsets
        else:
            order = np.argsort(self.keys, kind="stable")
            self._sorted_keys, self._offsets = self.keys[order], offsets[order]
        self._check()

    def __len__(self) -> int:
        return len(self.keys)

    def offsets(self, keys: np.ndarray) -> np.ndarray:
        """Byte offsets of keys `(n,)` or `()`; RecordError where one is missing."""
        at = np.minimum(np.searchsorted(self._sorted_keys, keys), len(self) - 1)
        missing = self._sorted_keys[at] != keys
        if np.any(missing):
            raise RecordError(
                f"{self.path}: no record {np.extract(missing, keys)[0]} among its {len(self)} keys "
                f"{self._sorted_keys[0]}…{self._sorted_keys[-1]}"
            )
        return self._offsets[at]

    def spans(self, count: int) -> Iterator[tuple[int, int, int]]:
        """An even sample in file order: key, offset, offset of what follows (lastly the file's size)."""
        in_order = np.all(self._offsets[1:] > self._offsets[:-1])
        order = None if in_order else np.argsort(self._offsets, kind="stable")
        starts = self._offsets if in_order else self._offsets[order]
        for i in np.unique(np.linspace(0, len(self) - 1, count).astype(np.int64)):
            key = self._sorted_keys[i if in_order else order[i]]
            end = self.rec_size if i + 1 == len(self) else starts[i + 1]
            yield int(key), int(starts[i]), int(end)

    def _check(self) -> None:
        keys, offsets, rec = self._sorted_keys, self._offsets, self.rec_path.name
        if np.any(double := keys[1:] == keys[:-1]):
            raise RecordError(f"{self.path}: key {keys[1:][double][0]} occurs more than once")
        if np.any(wrong := (offsets < 0) | (offsets % 4 != 0)):
            raise RecordError(
                f"{self.path}: record {keys[wrong][0]} cannot start at byte {offsets[wrong][0]}: "
                "records start at multiples of 4"
            )
        if np.any(beyond := offsets >= self.rec_size):
            raise RecordError(
                f"{self.path}: record {keys[beyond][0]} is said to start at byte {offsets[beyond][0]}, but "
                f"{rec} has {self.rec_size} bytes: it is truncated, or belongs to another .idx"
            )
        if start := offsets.min():
            raise RecordError(f"{self.path}: its first record starts at byte {start} of {rec} instead of 0")


def _load(path: Path) -> np.ndarray:
    """The `(N, 2)` int64 table."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise RecordError(f"{path} is empty")
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):  # raised for blank lines only
            table = np.loadtxt(path, dtype=np.int64, comments=None, encoding="utf-8-sig", ndmin=2)
    except (ValueError, UserWarning) as error:
        raise RecordError(
            f"{path}: expected lines 'key<TAB>byte offset': {str(error).splitlines()[0]}"
        ) from None
    if table.shape[1] != 2:
        raise RecordError(f"{path}: expected two numbers a line, key and byte offset, got {table.shape[1]}")
    return table
