"""webdataset: tar files in which the members of one sample follow each other and share a name.

    0001.jpg  0001.cls      the image, and its label as digits
    0002.png  0002.json     the image, and an object that has its label under one of LABELS

Format: https://github.com/webdataset/webdataset. Where each image begins is read from the
headers once and kept in `<name>.tar.index.npz` beside the file, or in memory where that folder cannot be
written to: so an image is found by its index, in any order.
"""

import json
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from loading.image_files import IMAGE_SUFFIXES
from loading.readers.base import FaceDataset, check_classes
from utils.files import whole_file
from utils.record_index import RecordError

LABELS = ("label", "cls", "class", "identity", "id")  # in the order of preference
BLOCK = 512  # bytes of a header
MAX_LABEL_BYTES = 1 << 20
FORMAT = 1  # of the index: another number where what is kept changes


def find_tars(root: Path) -> list[Path]:
    """The tar files that are meant by a folder or a file; none where it has none."""
    if root.suffix == ".tar" and root.is_file():
        return [root]
    return sorted(root.glob("*.tar"))


class TarDataset(FaceDataset):
    """Images of tar files, in the order of the files' names and of the members.

    Raises:
        RecordError: a tar is damaged or holds no image; an image without a label, or a label that is no
            integer from 0 to `num_classes` - 1.
    """

    def __init__(self, paths: list[Path], num_classes: int | None = None):
        self.paths, self.root = paths, paths[0].parent
        progress = tqdm(paths, desc="reading headers", unit=" tar", disable=None if len(paths) > 8 else True)
        indexes = [index_of(path) for path in progress]
        self._starts = np.cumsum([0, *(len(index) for index in indexes)])
        self._offsets, self._sizes, self._labels = (
            np.ascontiguousarray(column) for column in np.concatenate(indexes).T
        )
        if not len(self._labels):
            raise RecordError(f"{paths[0]}{' and others hold' if paths[1:] else ' holds'} no image")
        source = paths[0] if len(paths) == 1 else self.root
        self.num_classes, self.warnings = check_classes(self, source, self._labels, num_classes)

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> np.ndarray:
        return self._labels

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Labels, and the places of the images in their files."""
        return {"labels": (self._labels,), "images": (self._starts, self._offsets, self._sizes)}

    def encoded(self, index: int) -> tuple[bytes, int]:
        """The bytes of an image's member and its label; RecordError where the file cannot be read."""
        return self._read(index, int(self._offsets[index]), int(self._sizes[index])), int(self._labels[index])

    def name_of(self, index: int) -> str:
        with suppress(RecordError):
            header = self._read(index, int(self._offsets[index]) - BLOCK, BLOCK)
            return f"{self._path(index)}: {header[:100].rstrip(bytes(1)).decode(errors='replace')}"
        return f"{self._path(index)}: byte {self._offsets[index]}"

    def _path(self, index: int) -> Path:
        return self.paths[int(np.searchsorted(self._starts, index, side="right")) - 1]

    def _read(self, index: int, start: int, size: int) -> bytes:
        """Bytes of the file that image `index` is in; it is opened anew, so nothing is shared over a fork."""
        path = self._path(index)
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise RecordError(f"{path}: {error.strerror}") from None


def index_of(path: Path) -> np.ndarray:
    """Of each image of a tar its first byte, its length in bytes and its label, `(N, 3)` int64.

    Taken from the file kept beside it, if it is of this format, size and time of change; else read, and kept.

    Raises:
        RecordError: see TarDataset.
    """
    kept, state = path.with_name(f"{path.name}.index.npz"), path.stat()
    version = np.array([FORMAT, state.st_size, state.st_mtime_ns])
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(kept) as found:
        if np.array_equal(found["version"], version):
            return found["images"].reshape(-1, 3)
    images = np.array(list(_images(path)), np.int64).reshape(-1, 3)
    with suppress(OSError), whole_file(kept) as partial, open(partial, "wb") as file:
        np.savez(file, version=version, images=images)
    return images


def _images(path: Path) -> Iterator[tuple[int, int, int]]:
    """Start, length and label of each image, from the headers and the labels' members."""
    try:
        with tarfile.open(path, "r:") as tar:
            for key, members in groupby(_members(tar), key=lambda member: _split(member.name)[0]):
                image = label = None
                for member in members:
                    kind = _split(member.name)[1]
                    if f".{kind}" in IMAGE_SUFFIXES:
                        if image:
                            raise RecordError(f"{path}: {key} has two images, .{kind} is the second")
                        image = member
                    elif kind == "cls" or (kind == "json" and label is None):
                        label = _label(tar, member, f"{path}: {member.name}")
                if image and label is None:
                    raise RecordError(f"{path}: {image.name} has no label: expected {key}.cls or {key}.json")
                if image:
                    yield image.offset_data, image.size, label
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(BLOCK).strip(bytes(1)):  # tarfile takes what is no header for the end
                raise RecordError(f"{path}: there is no header at byte {tar.offset}: the file is damaged")
    except (tarfile.TarError, EOFError) as error:
        raise RecordError(f"{path}: {error}") from None


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Plain files; unlike tarfile's own iterator it keeps none of them in memory."""
    while (member := tar.next()) is not None:
        tar.members = []
        if member.isreg() and not Path(member.name).name.startswith("."):
            yield member


def _split(name: str) -> tuple[str, str]:
    """A member's key and kind: "a/01.jpg" -> ("a/01", "jpg"); the kind begins after the first dot."""
    folder, slash, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return folder + slash + stem, kind.lower()


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> int | None:
    """The label in a .cls or .json; None for a .json that is no label's."""
    text = tar.extractfile(member).read(MAX_LABEL_BYTES).strip()
    if member.name.lower().endswith(".cls"):
        value = text.decode(errors="replace")
        label = int(value) if value.isascii() and value.isdecimal() and len(value) < 18 else value
    else:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{name} is no JSON: {error}") from None
        label = (
            next((found[field] for field in LABELS if field in found), None) if type(found) is dict else None
        )
        if label is None:
            raise RecordError(f"{name} has no label: expected an object with one of {', '.join(LABELS)}")
    if type(label) is not int or not 0 <= label < 1 << 62:
        raise RecordError(f"{name} has label {str(label)[:40]!r}; allowed: integers from 0")
    return label
