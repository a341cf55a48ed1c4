"""RecordIO, the container of `train.rec` + `train.idx`, read and written without MXNet.

A `.rec` is a row of records, little endian throughout:

    record   magic number (uint32) | cflag << 29 | length (uint32) | content | zeros up to a multiple of 4
    content  flag (uint32) | label (float32) | id, id2 (uint64) | `flag` float32 labels | payload

The magic number may not stand at a 4-byte border of the content, so that a reader who has lost its place
finds the next record. Where it would, the content is split and the number left out: cflag says whether a
record is whole (0) or the first (1), a middle (2) or the last part (3), and the reader puts the number back.
"""

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from utils.record_index import RecordError, RecordIndex

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
PART_HEAD = struct.Struct("<II")  # magic number, cflag << 29 | length
CONTENT_HEAD = struct.Struct("<IfQQ")  # flag, label, id, id2
WHOLE, FIRST, MIDDLE, LAST = range(4)
MAX_PART = (1 << 29) - 1  # bytes
NUM_PROBES = 1024  # records looked at when a file is opened: a bounded time, however large the file


def _align(length: int) -> int:
    return (length + 3) // 4 * 4


class IndexedRecordReader:
    """Reads records by key from a memory-mapped file. Survives a fork; pickles without the file's content.

    `keys` is the `(N,)` int64 array of keys in the order of the `.idx`. Opening parses the `.idx` and follows
    a bounded number of records; `read` checks the record that it reads.

    Raises:
        FileNotFoundError: there is no such `.idx` or `.rec`.
        RecordError: the `.idx` is malformed or does not fit the `.rec`, or the `.rec` is truncated.
    """

    def __init__(self, idx_path: str | Path, rec_path: str | Path):
        self.idx_path, self.rec_path = Path(idx_path), Path(rec_path)
        self._map_file()
        self._index = RecordIndex(self.idx_path, self.rec_path, len(self._map))
        self.keys = self._index.keys
        self._probe()

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, key: int) -> tuple[np.ndarray, bytes]:
        """The label `(max(1, flag),)` float32 and the payload of one record.

        Raises:
            RecordError: no such key, or the bytes at its offset are not a whole record.
        """
        offset = int(self._index.offsets(np.int64(key)))
        content = MAGIC_BYTES.join(self._map[start:end] for start, end in self._parts(key, offset))
        flag, label = CONTENT_HEAD.unpack_from(content)[:2] if len(content) >= CONTENT_HEAD.size else (0, 0)
        labels_end = CONTENT_HEAD.size + 4 * flag
        if labels_end > len(content):
            raise RecordError(
                f"{self.rec_path}: record {key} has {len(content)} bytes, too few for its header of 24 bytes "
                f"and its {flag} labels"
            )
        if flag == 0:
            return np.array([label], np.float32), content[labels_end:]
        return np.frombuffer(content, "<f4", flag, CONTENT_HEAD.size).astype(np.float32), content[labels_end:]

    def read_plain(self, keys: np.ndarray) -> tuple[np.ndarray, Iterator[bytes | None]]:
        """Element 0 of each key's label `(n,)` float32, and the payloads, as `read` gives them.

        A payload is None, and the label any number, where only `read` can tell: the record is split into
        parts, or it is broken.
        """
        offsets, lengths, flags, labels, plain = self._heads(keys)
        starts = offsets + (PART_HEAD.size + CONTENT_HEAD.size) + 4 * flags.astype(np.int64)
        ends = offsets + PART_HEAD.size + lengths
        plain &= (starts <= ends) & (ends <= len(self._map))
        places = zip(plain.tolist(), starts.tolist(), ends.tolist())
        return labels, (self._map[start:end] if whole else None for whole, start, end in places)

    def first_labels(self, keys: np.ndarray, chunk: int = 1 << 16) -> np.ndarray:
        """Element 0 of each key's label, `(len(keys),)` float32. Touches one page of the file per record.

        Works through `chunk` records at a time: beside the result its memory does not grow with the file.
        """
        self._map.madvise(mmap.MADV_SEQUENTIAL)
        labels = np.empty(len(keys), np.float32)
        for start in range(0, len(keys), chunk):
            part = keys[start : start + chunk]
            *_, found, plain = self._heads(part)
            for i in np.flatnonzero(~plain):  # split into parts or broken: `read` puts together or raises
                found[i] = self.read(part[i])[0][0]
            labels[start : start + chunk] = found
        self._map.madvise(mmap.MADV_RANDOM)
        return labels

    def layout(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the record of each key starts, `(N,)` int64, and the file's size, `(1,)`; reads no record."""
        return self._index.offsets(self.keys), np.array([len(self._map)])

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_map"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._map_file()

    def _map_file(self) -> None:
        if not self.rec_path.is_file():
            raise FileNotFoundError(f"{self.rec_path}: no such file")
        if self.rec_path.stat().st_size == 0:
            raise RecordError(f"{self.rec_path} is empty")
        with self.rec_path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # Images are read in random order. Without this the system reads 128 KiB around each: half as fast.
        self._map.madvise(mmap.MADV_RANDOM)

    def _heads(self, keys: np.ndarray) -> tuple[np.ndarray, ...]:
        """Offset, length, flag and first label of each record, and whether it is of one part, `(n,)` each.

        Length, flag and label of the others mean nothing.
        """
        words, offsets = np.frombuffer(self._map, "<u4", len(self._map) // 4), self._index.offsets(keys)
        at = offsets // 4
        # Words 0…7: magic, length, flag, label, id (2), id2 (2); a label array follows. A truncated last
        # record is shorter: the clamp keeps its words inside the file, and the checks below find it.
        magic, head, flag, label, follow = (
            words[np.minimum(at + i, len(words) - 1)] for i in (0, 1, 2, 3, 8)
        )
        shortest = CONTENT_HEAD.size + 4 * (flag > 0)
        plain = (magic == MAGIC) & (head >> 29 == WHOLE) & (head >= shortest) & (at + 8 <= len(words))
        return offsets, head, flag, np.where(flag > 0, follow, label).view(np.float32), plain

    def _parts(self, key: int, offset: int) -> Iterator[tuple[int, int]]:
        """Start and end of the content of each part of the record at `offset`."""
        record, size, previous = f"{self.rec_path}: record {key}", len(self._map), None
        while previous not in (WHOLE, LAST):
            start = offset + PART_HEAD.size
            if start > size:
                raise RecordError(f"{record} is truncated: the file ends at byte {size}, within its head")
            magic, head = PART_HEAD.unpack_from(self._map, offset)
            cflag, end = head >> 29, start + (head & MAX_PART)
            if magic != MAGIC or cflag not in ((WHOLE, FIRST) if previous is None else (MIDDLE, LAST)):
                raise RecordError(
                    f"{record}: {self.idx_path.name} or the part before places a part at byte {offset}, but "
                    f"there is {magic:#x} (kind {cflag}) instead of the magic number {MAGIC:#x}"
                )
            if end > size:
                raise RecordError(f"{record} is truncated: it goes on to byte {end}, the file ends at {size}")
            yield start, end
            offset, previous = start + _align(end - start), cflag

    def _probe(self) -> None:
        """Follow some records from the first to the last: each has to end where the next one begins."""
        for key, offset, follower in self._index.spans(NUM_PROBES):
            *_, (_, end) = self._parts(key, offset)
            if _align(end) != _align(follower):
                next_one = "the file ends" if follower == len(self._map) else "its next record starts"
                raise RecordError(
                    f"{self.idx_path} does not fit {self.rec_path.name}: record {key} ends at byte "
                    f"{_align(end)}, but {next_one} at {follower}"
                )


class IndexedRecordWriter:
    """Writes a `.rec` and its `.idx`. A context manager: both appear, whole, when left without an error.

    Until then they carry the suffix `.partial`; an error removes them.
    """

    def __init__(self, idx_path: str | Path, rec_path: str | Path):
        self.idx_path, self.rec_path = Path(idx_path), Path(rec_path)
        self._partial = [path.with_name(path.name + ".partial") for path in (self.idx_path, self.rec_path)]
        self._idx, self._rec = self._partial[0].open("w", newline="\n"), self._partial[1].open("wb")

    def write(
        self,
        key: int,
        label: float | Sequence[float] | np.ndarray,
        payload: bytes,
        *,
        id: int | None = None,
        id2: int = 0,
    ) -> None:
        """Append one record.

        Args:
            key: what the `.idx` will call it, not negative; each key once.
            label: a number, or a sequence of at least one: then it is stored as a label array.
            payload: any bytes, usually an encoded image.
            id, id2: stored in the header, without meaning to this project; `id` is the key by default.
        Raises:
            ValueError: a negative key, an empty label array, or more bytes than the format can hold.
        """
        if key < 0:
            raise ValueError(f"record {key}: a key is not negative")
        labels = b"" if np.ndim(label) == 0 else np.asarray(label, "<f4").tobytes()
        if np.ndim(label) and not labels:
            raise ValueError(f"record {key}: its label array is empty")
        header = CONTENT_HEAD.pack(len(labels) // 4, 0 if labels else label, key if id is None else id, id2)
        parts = _split(header + labels + payload)
        if max(map(len, parts)) > MAX_PART:
            raise ValueError(
                f"record {key}: {len(payload)} bytes are too many, the format ends at {MAX_PART}"
            )
        kinds = [WHOLE] if len(parts) == 1 else [FIRST, *[MIDDLE] * (len(parts) - 2), LAST]
        self._idx.write(f"{key}\t{self._rec.tell()}\n")
        for kind, part in zip(kinds, parts):
            padding = bytes(_align(len(part)) - len(part))
            self._rec.write(PART_HEAD.pack(MAGIC, kind << 29 | len(part)) + part + padding)

    def close(self) -> None:
        """Put both files in place."""
        self._idx.close()
        self._rec.close()
        os.replace(self._partial[1], self.rec_path)
        os.replace(self._partial[0], self.idx_path)

    def __enter__(self) -> "IndexedRecordWriter":
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is None:
            return self.close()
        self._idx.close()
        self._rec.close()
        for path in self._partial:
            path.unlink(missing_ok=True)


def _split(content: bytes) -> list[bytes]:
    """The pieces of content before, between and after the magic numbers at its 4-byte borders."""
    words = np.frombuffer(content, "<u4", len(content) // 4)
    cuts = (np.flatnonzero(words == MAGIC) * 4).tolist()
    return [content[start:end] for start, end in zip([0, *(cut + 4 for cut in cuts)], [*cuts, len(content)])]
