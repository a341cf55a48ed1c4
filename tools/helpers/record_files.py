"""Record files made anew: from images (`write_rec`), or from what can still be read of others (`repair`)."""

import mmap
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from loading.readers.base import decode
from loading.record_layout import MAX_EMPTY, find_record, read_property
from utils.errors import printable
from utils.files import whole_files
from utils.recordio import (
    CONTENT_HEAD,
    FIRST,
    LAST,
    MAGIC,
    MAGIC_BYTES,
    MAX_PART,
    MIDDLE,
    PART_HEAD,
    WHOLE,
    IndexedRecordWriter,
    RecordError,
)

MAX_LABEL = 1 << 31
NAMES, IMAGES, DUPLICATES = "identities.txt", "images.txt", "duplicates.csv"
FILES = ("train.rec", "train.idx", "property", NAMES, IMAGES, DUPLICATES)
Record = tuple[Sequence[float], bytes]  # label numbers after the first, and the encoded image


class Content(NamedTuple):
    """What is to be written.

    `labels`: `(N,)` integers below the number of `identities`, the names of the people. `record(i)` gives
    image i, `names` what their files were called, None where nobody knows.
    """

    labels: np.ndarray
    identities: list[str]
    record: Callable[[int], Record]
    names: list[str] | None = None


def require_free(out: Path) -> None:
    """FileExistsError where the folder holds record files already."""
    for path in (out / name for name in FILES):
        if path.exists():
            raise FileExistsError(f"{path} exists already: remove it, or choose another folder")


@contextmanager
def whole_rec(out: Path) -> Iterator[Path]:
    """A folder to write record files to, which are all in `out` at the end, or none after an error."""
    require_free(out)
    out.mkdir(parents=True, exist_ok=True)
    with whole_files(out / "train.rec") as partial:
        yield partial


def write_rec(folder: Path, content: Content, *, grouped: bool = True) -> None:
    """Write train.rec, train.idx, property, identities.txt and, where names are known, images.txt.

    Args:
        grouped: labels ascend, and insightface's header and identity records are written. Otherwise every
            record is an image, in any order.
    """
    labels, first = content.labels, int(grouped)
    if grouped:
        pack(folder, labels, len(content.identities), content.record)
    else:
        with IndexedRecordWriter(folder / "train.idx", folder / "train.rec") as records:
            _write_images(records, labels, content.record, first_key=0)
        _write_property(folder, len(content.identities))
    _write_lines(folder / NAMES, enumerate(content.identities))
    if content.names is not None:
        _write_lines(folder / IMAGES, enumerate(content.names, start=first))


def pack(out: Path, labels: np.ndarray, num_classes: int, record: Callable[[int], Record]) -> None:
    """Write train.rec, train.idx and property in insightface's layout.

    Args:
        labels: `(N,)` integers in [0, num_classes), ascending.
        record: of image i.
    """
    total = len(labels)
    with IndexedRecordWriter(out / "train.idx", out / "train.rec") as records:
        # Keys: 0 the header, 1…N the images, N+1…N+C the ranges [first, last + 1) of the identities' keys.
        records.write(0, (total + 1, total + 1 + num_classes), b"")
        _write_images(records, labels, record, first_key=1)
        ends = 1 + np.cumsum(np.bincount(labels, minlength=num_classes))
        for label, (first, end) in enumerate(zip([1, *ends[:-1]], ends)):
            records.write(total + 1 + label, (first, end), b"")
    _write_property(out, num_classes)


def _write_images(
    records: IndexedRecordWriter, labels: np.ndarray, record: Callable[[int], Record], first_key: int
) -> None:
    for index in tqdm(range(len(labels)), desc="writing", unit="img", disable=None):
        (further, encoded), label = record(index), int(labels[index])
        records.write(first_key + index, (label, *further) if len(further) else label, encoded)


def _write_property(folder: Path, num_classes: int) -> None:
    (folder / "property").write_text(f"{num_classes},112,112\n")


def _write_lines(path: Path, lines: Iterable[tuple[int, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{number}\t{printable(name)}\n" for number, name in lines)


def repair(source: Path, out: Path) -> list[str]:
    """Copy every image that can be used, with its label; returns what was copied and left out, in words.

    The `.rec` is read from its beginning to its end, without the `.idx`: one that is missing, or of another
    file, does not matter, and after a damaged place reading goes on at the next record.

    Raises:
        FileNotFoundError, RecordError: there is no `.rec`, or no image in it that can be used.
        FileExistsError: there are record files in `out` already.
    """
    record = _rec_of(source)
    require_free(out)
    declared = read_property(record.parent / "property")
    places, labels, lost = [], [], Counter()
    if record.stat().st_size == 0:
        raise RecordError(f"{record} is empty")
    with open(record, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start, content in tqdm(_records(data, lost), unit="img", disable=None):
            try:
                label, payload = _parsed(content)
                if declared and label >= declared:
                    raise RecordError(f"labels above those of property, 0…{declared - 1}")
                if payload:
                    decode(payload, "")
                    places.append(start)
                    labels.append(label)
            except (RecordError, struct.error, ValueError) as fault:
                lost[str(fault).removeprefix(": ")] += 1
        if not places:
            raise RecordError(f"{record} holds no image that can be used")
        order = np.argsort(labels, kind="stable")
        ascending = np.array(labels, np.int64)[order]
        present, num_classes = len(np.unique(ascending)), declared or int(ascending[-1]) + 1
        if not declared and present < (1 - MAX_EMPTY) * num_classes:
            raise RecordError(
                f"{record}: labels go up to {num_classes - 1:,}, but only {present:,} of them occur: if this "
                f"is right, say so in a file property, '{num_classes},112,112'"
            )
        with whole_rec(out) as folder:
            pack(
                folder, ascending, num_classes,
                lambda i: ((), _parsed(_record_at(data, places[order[i]])[0])[1]),
            )  # fmt: skip
            if (names := record.parent / NAMES).is_file():
                (folder / NAMES).write_bytes(names.read_bytes())
    left_out = [f"left out {count:,}: {reason}" for reason, count in lost.most_common()]
    return [f"{len(places):,} images of {present:,} identities", *left_out]


def _rec_of(source: Path) -> Path:
    """The `.rec` that is meant; unlike for training its `.idx` may be missing."""
    if source.suffix == ".rec":
        return source
    found = sorted(source.glob("*.rec"))
    if len(found) == 1:
        return found[0]
    if record := find_record(source):
        return record
    raise FileNotFoundError(f"{source} holds no .rec file")


def _records(data: mmap.mmap, lost: Counter) -> Iterator[tuple[int, bytes]]:
    """Start and content of each whole record, in the order of the file; counts damaged places in `lost`."""
    start = 0
    while start < len(data):
        content, end = _record_at(data, start)
        if content is not None:
            yield start, content
            start = end
            continue
        lost["damaged places in the file, each up to the next record"] += 1
        start = data.find(MAGIC_BYTES, start + 4)
        while start % 4 and start >= 0:
            start = data.find(MAGIC_BYTES, start + 1)
        if start < 0:
            return


def _record_at(data: mmap.mmap, start: int) -> tuple[bytes | None, int]:
    """Content and end of the record at a byte; None where there is no whole one."""
    parts, kind = [], None
    while kind not in (WHOLE, LAST):
        if start + PART_HEAD.size > len(data):
            return None, start
        magic, head = PART_HEAD.unpack_from(data, start)
        allowed = (WHOLE, FIRST) if kind is None else (MIDDLE, LAST)
        kind, length = head >> 29, head & MAX_PART
        start += PART_HEAD.size
        if magic != MAGIC or kind not in allowed or start + length > len(data):
            return None, start
        parts.append(data[start : start + length])
        start += (length + 3) // 4 * 4
    return MAGIC_BYTES.join(parts), start


def _parsed(content: bytes) -> tuple[int, bytes]:
    """Label and payload of a record; RecordError where the label is no class."""
    flag, label = CONTENT_HEAD.unpack_from(content)[:2]
    if flag:
        label = float(np.frombuffer(content, "<f4", flag, CONTENT_HEAD.size)[0])
    payload = content[CONTENT_HEAD.size + 4 * flag :]
    if payload and not (0 <= label < MAX_LABEL and label == int(label)):
        raise RecordError("labels that are no integer from 0")
    return int(label) if payload else 0, payload
