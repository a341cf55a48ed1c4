"""RecordIO: `train.rec` and `train.idx`, as insightface distributes its data."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from loading.readers.base import FaceDataset, decoded
from loading.record_layout import (
    are_labels,
    check_labels,
    content,
    count_classes,
    find_record,
    image_keys,
    read_property,
)
from utils.recordio import IndexedRecordReader, RecordError


class RecordDataset(FaceDataset):
    """`train.rec` and `train.idx` in a folder, with or without insightface's header; `property` is optional.

    `root` may also be a .rec file, or a folder that holds one of another name; see `find_record`.

    Images come in the order of the `.idx`. The class range is what `property` declares, else `num_classes`,
    else the largest label plus one.

    Raises:
        FileNotFoundError: no such folder or file.
        RecordError: the files do not fit each other, or a label lies outside the class range.
    """

    def __init__(self, root: str | Path, num_classes: int | None = None):
        record = find_record(Path(root)) or Path(root, "train.rec")
        self.root = record.parent
        if self.root.is_file():
            raise FileNotFoundError(f"{self.root} is a file: expected a .rec file or a folder with one")
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder")
        self.reader = IndexedRecordReader(record.with_suffix(".idx"), record)
        self.keys, num_identities = image_keys(self.reader)
        declared, source = read_property(self.root / "property"), "property"
        if declared is None:
            declared, source = num_classes, "num_classes"
        self.num_classes, self.warnings = count_classes(
            self.reader, self.keys, num_identities, declared, source
        )

    def __len__(self) -> int:
        return len(self.keys)

    def encoded(self, index: int) -> tuple[bytes, int]:
        """Payload and first label of a record; RecordError where it is broken or its label is no class."""
        key = self.keys[index : index + 1]
        label, encoded = self.reader.read(key[0])
        check_labels(self.reader, key, label[:1], self.num_classes, "its number of classes")
        return encoded, int(label[0])

    def read_batch(self, indices: np.ndarray) -> Iterator[tuple[np.ndarray | RecordError, int]]:
        """Looks up and checks all records and labels at once; what is not plain goes through `read`."""
        labels, payloads = self.reader.read_plain(self.keys[indices])
        allowed = are_labels(labels, self.num_classes)
        labels = np.where(allowed, labels, 0).astype(np.int64)
        for index, payload, label, is_allowed in zip(indices, payloads, labels.tolist(), allowed.tolist()):
            image = decoded(payload) if is_allowed else None
            yield self._read_or_error(int(index)) if image is None else (image, label)

    def name_of(self, index: int) -> str:
        return f"{self.reader.rec_path}: record {self.keys[index]}"

    def labels(self) -> np.ndarray:
        """Every image's label, `(len(self),)` int64; touches one page of the file per image."""
        return self.reader.first_labels(self.keys).astype(np.int64)

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Labels and places of the records."""
        return content(self.reader, self.keys)
