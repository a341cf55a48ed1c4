"""What record files are made of: any training data, or a list of images, with the names of people and files.

Lists: MXNet's .lst (`index TAB label TAB path`; of several labels the first counts), and .csv with a header
that has a column `path` (or file, image) and one `identity` (or label, id, name).
"""

import ast
import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dataset import RecordDataset
from eval.readers.text import ENCODING, text_of
from loading.readers.base import FaceDataset
from loading.readers.choice import open_data
from loading.readers.folders import FileDataset
from tools.helpers.record_files import IMAGES, NAMES, Content, Record

LISTS = (".lst", ".csv")
PATH_COLUMNS, IDENTITY_COLUMNS = ("path", "file", "image"), ("identity", "label", "id", "name")


class Source:
    """Images to be packed or copied.

    Attributes:
        labels: `(N,)` int64.
        identities: the name of each label; its number where nobody knows a name.
        names: what the files of the images were called, or None.
    """

    def __init__(self, data: FaceDataset):
        self.data, self.labels, self.names = data, data.labels(), None
        self.identities = getattr(data, "identities", None) or list(map(str, range(data.num_classes)))
        if isinstance(data, FileDataset):
            self.names = [os.fsdecode(path) for path in data.relative_paths]
        if isinstance(data, RecordDataset):
            self.identities = read_names(data.root / NAMES, range(data.num_classes)) or self.identities
            self.names = read_names(data.root / IMAGES, data.keys.tolist())

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, index: int) -> Record:
        """What the record of an image holds beside its label."""
        if isinstance(self.data, RecordDataset):
            labels, encoded = self.data.reader.read(self.data.keys[index])
            return labels[1:].tolist(), encoded
        return (), self.data.encoded(index)[0]


def open_source(path: Path, root: Path | None = None) -> Source:
    """A folder, a list, a rec, or whatever `rec=` takes.

    Args:
        root: what the paths of a list are relative to; None: the folder of the list.
    Raises:
        FileNotFoundError, ValueError: it is not there, or cannot be read.
    """
    if path.suffix.lower() not in LISTS:
        if root is not None:
            raise ValueError(f"--root is for the paths of a list ({', '.join(LISTS)}), {path} is none")
        return Source(open_data(path))
    return Source(read_list(path, root or path.parent))


def open_rec(path: Path) -> Source:
    """Record files alone.

    Raises:
        FileNotFoundError, RecordError: they are not there, or cannot be read.
    """
    return Source(RecordDataset(path))


def copied(
    sources: Sequence[Source], which: np.ndarray, labels: np.ndarray, identities: list[str]
) -> Content:
    """The content of new record files.

    Args:
        which: `(N, 2)` source and image of each new image.
        labels: `(N,)` their new labels.
        identities: the name of each new label.
    """
    places, names = which.tolist(), None
    if all(source.names is not None for source in sources):
        names = [sources[source].names[index] for source, index in places]

    def record(i: int) -> Record:
        source, index = places[i]
        return sources[source].record(index)

    return Content(labels, identities, record, names)


def read_list(path: Path, root: Path) -> FileDataset:
    """The images of a .lst or .csv; identities are numbered in the order of their names, or of their numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has not the columns that are expected.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with text_of(path), open(path, encoding=ENCODING, newline="") as file:
        rows = list(_lst_rows(file, path) if path.suffix.lower() == ".lst" else _csv_rows(file, path))
    if not rows:
        raise ValueError(f"{path} names no image")
    images, people = zip(*rows)
    are_numbers = all(re.fullmatch(r"\d{1,18}(\.0*)?", name, re.ASCII) for name in people)
    people = [name.partition(".")[0] for name in people] if are_numbers else people
    identities = sorted(set(people), key=int if are_numbers else None)
    numbers = {name: number for number, name in enumerate(identities)}
    return FileDataset(
        root, identities, [os.fsencode(image) for image in images], [numbers[p] for p in people]
    )


def _lst_rows(lines: Iterable[str], path: Path) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\r\n").split("\t")
        if fields == [""]:
            continue
        if len(fields) < 3 or not all(field.strip() for field in (fields[1], fields[-1])):
            raise ValueError(
                f"{path} line {number}: expected index TAB label TAB path, got {line.strip()[:80]!r}"
            )
        yield fields[-1].strip(), fields[1].strip()


def _csv_rows(lines: Iterable[str], path: Path) -> Iterable[tuple[str, str]]:
    table = csv.reader(lines, strict=True)
    header = [field.strip().lower() for field in next(table, [])]
    columns = []
    for allowed in (PATH_COLUMNS, IDENTITY_COLUMNS):
        found = [header.index(name) for name in allowed if name in header]
        if not found:
            raise ValueError(
                f"{path}: its first line has no column called {' or '.join(allowed)}, but "
                f"{', '.join(header)[:80]}"
            )
        columns.append(found[0])
    for row in table:
        if not row:
            continue
        image, identity = (row[i].strip() if i < len(row) else "" for i in columns)
        if not image or not identity:
            raise ValueError(
                f"{path} line {table.line_num}: no path or no identity in {','.join(row)[:80]!r}"
            )
        yield image, identity


def read_names(path: Path, numbers: Sequence[int]) -> list[str] | None:
    """The names in `number TAB name` of these numbers; None where there is no such file.

    Raises:
        ValueError: another line, or a number without a name.
    """
    if not path.is_file():
        return None
    found = {}
    with text_of(path), open(path, encoding=ENCODING) as file:
        for line, text in enumerate(file, start=1):
            number, tab, name = text.rstrip("\n").partition("\t")
            if not tab or not number.isdecimal():
                raise ValueError(f"{path} line {line}: expected number TAB name, got {text.strip()[:80]!r}")
            found[int(number)] = as_it_was(name)
    if missing := [number for number in numbers if number not in found]:
        raise ValueError(f"{path} has no name for {missing[0]}: remove the file if it is of other records")
    return [found[number] for number in numbers]


def as_it_was(text: str) -> str:
    """A name before `utils.errors.printable` made it so."""
    escaped = r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[\\nrt])"
    return re.sub(escaped, lambda found: ast.literal_eval(f"'{found[0]}'"), text)
