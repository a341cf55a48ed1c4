"""Hugging Face's Parquet files: a column of images and one of labels.

An image is a struct {bytes, path}, as `datasets` writes it, or plain bytes; a label an integer, or a text
that names an identity. Format: https://huggingface.co/docs/datasets/en/image_dataset. pyarrow reads it.

Rows are packed in groups, and a group is read as a whole: an image in random order costs the bytes of all
images of its group. `datasets` makes groups of 100 images; larger ones are warned of.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from loading.readers.base import FaceDataset, check_classes
from utils.errors import needed_package
from utils.record_index import RecordError

IMAGES = ("image", "img", "jpg", "png", "face")  # names of columns, in the order of preference
LABELS = ("label", "labels", "identity", "id", "cls", "class", "target")
LARGE_GROUP = 1000  # images


def find_parquet(root: Path) -> list[Path]:
    """The Parquet files that are meant, sorted: a file, those of a folder, or of its folder `data`; or none.

    Where some are called train…, the others are of other splits and are left out.
    """
    if root.suffix == ".parquet" and root.is_file():
        return [root]
    found = sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet"))
    return [path for path in found if path.name.startswith("train")] or found


class ParquetDataset(FaceDataset):
    """Images of Parquet files, in the order of the files' names and of the rows.

    `identities` are the texts of the labels, sorted, where they are texts; else None.

    Raises:
        ValueError: pyarrow is not installed.
        RecordError: a file cannot be read, columns are missing, or a label is no integer from 0 to
            `num_classes` - 1.
    """

    def __init__(self, paths: list[Path], num_classes: int | None = None):
        self.paths, self.root = paths, paths[0].parent
        self._files = [_open(path) for path in paths]
        schema = self._files[0].schema_arrow
        self.image_column = self._column(schema, IMAGES, _is_image, "images (a struct with bytes, or binary)")
        self.label_column = self._column(schema, LABELS, _is_label, "labels (integers or texts)")
        groups = [
            [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] for file in self._files
        ]
        # Of each group: its file, its number there, and its first row among all.
        self._groups = [(file, i) for file, rows in enumerate(groups) for i in range(len(rows))]
        self._starts = np.cumsum([0, *(count for rows in groups for count in rows)])
        labels = np.concatenate([self._labels_of(number) for number in range(len(paths))])
        self.identities = None
        if labels.dtype.kind not in "iu":
            names, labels = np.unique(labels.astype(str), return_inverse=True)
            self.identities = names.tolist()
        self._labels = labels.astype(np.int64)
        if not len(labels):
            raise RecordError(f"{paths[0]} holds no row")
        source = paths[0] if len(paths) == 1 else self.root
        self.num_classes, self.warnings = check_classes(self, source, self._labels, num_classes)
        if (largest := int(np.diff(self._starts).max())) > LARGE_GROUP:
            self.warnings = [
                *self.warnings,
                f"{source}: its row groups hold up to {largest:,} images, and each image costs the reading "
                "of a whole group: tools/make_rec.py packs it once",
            ]

    def __len__(self) -> int:
        """Rows of all files."""
        return len(self._labels)

    def labels(self) -> np.ndarray:
        """Every row's label, `(len(self),)` int64 from 0; of texts their place among `identities`."""
        return self._labels

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Labels, the first row of each group, and the sizes of the files in bytes."""
        sizes = np.array([path.stat().st_size for path in self.paths])
        return {"labels": (self._labels,), "images": (self._starts, sizes)}

    def encoded(self, index: int) -> tuple[bytes, int]:
        """The bytes of the image in a row, or of the file that the row names, and its label.

        Reads the images of the whole group.

        Raises:
            RecordError: the group is damaged, the file is missing, or the row has neither bytes nor a file.
        """
        group, row, path = self._place(index)
        file, number = self._groups[group]
        with _named_errors(self.name_of(index)):
            table = self._files[file].read_row_group(number, columns=[self.image_column], use_threads=False)
        image = table.column(0)[row].as_py()
        if isinstance(image, dict):
            image, beside = image.get("bytes"), image.get("path")
            if image is None and beside:
                try:
                    image = Path(path.parent, beside).read_bytes()
                except OSError as error:
                    raise RecordError(f"{self.name_of(index)}: {beside}: {error.strerror}") from None
        if not image:
            raise RecordError(f"{self.name_of(index)} has no image")
        return image, int(self._labels[index])

    def name_of(self, index: int) -> str:
        """The file, and the number of the row in it, from 0."""
        _, _, path = self._place(index)
        first = next(i for i, (file, _) in enumerate(self._groups) if self.paths[file] == path)
        return f"{path}: row {index - int(self._starts[first])}"

    def _place(self, index: int) -> tuple[int, int, Path]:
        """Group, row in it, and file of an image."""
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        return group, index - int(self._starts[group]), self.paths[self._groups[group][0]]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_files"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._files = [_open(path) for path in self.paths]

    def _column(self, schema, preferred: tuple[str, ...], fits, what: str) -> str:
        """The name of a column: one of the preferred, else the only one that fits."""
        fitting = [field.name for field in schema if fits(str(field.type))]
        found = [name for name in preferred if name in fitting] or fitting
        if not found or (len(found) > 1 and found[0] not in preferred):
            columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise RecordError(
                f"{self.paths[0]}: expected a column of {what}, called {' or '.join(preferred)}; "
                f"it has {columns}"
            )
        return found[0]

    def _labels_of(self, number: int) -> np.ndarray:
        path, file = self.paths[number], self._files[number]
        missing = {self.image_column, self.label_column} - set(file.schema_arrow.names)
        if missing:
            raise RecordError(f"{path} has no column {sorted(missing)[0]!r}, which {self.paths[0].name} has")
        with _named_errors(path):
            column = file.read(columns=[self.label_column], use_threads=False).column(0)
        if column.null_count:
            raise RecordError(f"{path}: {column.null_count} rows have no {self.label_column}")
        return column.to_numpy()


def _open(path: Path):
    parquet = needed_package("pyarrow.parquet", "to read Parquet files", "pyarrow")
    with _named_errors(path):  # memory-mapped and without threads: a fork may use it
        return parquet.ParquetFile(path, memory_map=True, pre_buffer=False)


@contextmanager
def _named_errors(name: object) -> Iterator[None]:
    """What pyarrow complains of becomes a RecordError with the name of a file or row."""
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:
        raise RecordError(f"{name}: {(str(error).splitlines() or ['damaged'])[0]}") from None


def _is_image(kind: str) -> bool:
    return kind in ("binary", "large_binary") or (kind.startswith("struct<") and "bytes: " in kind)


def _is_label(kind: str) -> bool:
    return kind in ("string", "large_string") or kind.removeprefix("u") in ("int8", "int16", "int32", "int64")
