"""LMDB in the layout of Vec2Face+, whose synthetic faces (VFace, HSFace) are published so.

Layout, from its public loaders: https://github.com/HaiyuWu/SOTA-Face-Recognition-Train-and-Test and
https://github.com/HaiyuWu/Vec2Face. Everything is packed by msgpack: `__keys__` is the list of the images'
keys, `__len__` their number, `__classnum__` the number of classes. An image is [encoded image, label], or
[encoded image, feature, label, ...] where the set is meant for training Vec2Face itself.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from loading.readers.base import FaceDataset
from utils.errors import needed_package
from utils.record_index import RecordError

PURPOSE, INSTALL = "to read LMDB files", "lmdb msgpack"


def find_lmdb(root: Path) -> Path | None:
    """The LMDB that is meant: a .lmdb file, a folder with data.mdb, or the one .lmdb of a folder.

    Raises:
        RecordError: there are several.
    """
    if (root.suffix == ".lmdb" and root.is_file()) or (root / "data.mdb").is_file():
        return root
    found = sorted(root.glob("*.lmdb"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise RecordError(f"{root} holds {names}: name one of them, as rec={found[0]}")
    return found[0] if found else None


class LmdbDataset(FaceDataset):
    """Images of an LMDB, in the order of its `__keys__`. A label is checked when its image is read.

    Raises:
        ValueError: lmdb or msgpack is not installed.
        RecordError: no LMDB, or of another layout.
    """

    def __init__(self, path: Path, num_classes: int | None = None):
        self.path, self.root = path, path if (path / "data.mdb").is_file() else path.parent
        self.keys = np.array(self._entry(b"__keys__", list))
        declared, length = self._entry(b"__classnum__", int), self._entry(b"__len__", int)
        if self.keys.dtype.kind not in "SU" or len(self.keys) != length or declared < 1:
            raise RecordError(
                f"{path}: __keys__ has {len(self.keys)}, __len__ says {length}, __classnum__ {declared}: "
                "expected as many keys as images, and at least one class"
            )
        self.num_classes = declared

    def __len__(self) -> int:
        return len(self.keys)

    def labels(self) -> np.ndarray:
        """Reads every image: the labels are in the same values."""
        return np.array([self.encoded(index)[1] for index in range(len(self))], np.int64)

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """The keys, and the number of the last change of the file."""
        return {"images": (self.keys, np.array([self._environment().info()["last_txnid"]]))}

    def encoded(self, index: int) -> tuple[bytes, int]:
        """The image and the label in the value of a key.

        Raises:
            RecordError: there is no such key, its value is of another layout, or its label no integer from 0
                to `num_classes` - 1.
        """
        value = self._value(_as_bytes(self.keys[index]), self.name_of(index))
        if not isinstance(value, list) or len(value) < 2 or not isinstance(value[0], bytes):
            raise RecordError(f"{self.name_of(index)} is not [encoded image, label] or [.., feature, label]")
        label = value[2] if isinstance(value[1], bytes) and len(value) > 2 else value[1]
        if type(label) is not int or not 0 <= label < self.num_classes:
            allowed = f"0…{self.num_classes - 1} (__classnum__)"
            raise RecordError(f"{self.name_of(index)} has label {str(label)[:40]}; allowed: {allowed}")
        return value[0], label

    def name_of(self, index: int) -> str:
        return f"{self.path}: key {_as_bytes(self.keys[index]).decode(errors='replace')}"

    def _entry(self, key: bytes, kind: type) -> Any:
        """What the file says of itself."""
        found = self._value(key, f"{self.path}: {key.decode()}")
        if not isinstance(found, kind):
            raise RecordError(
                f"{self.path}: {key.decode()} is a {type(found).__name__}, not a {kind.__name__}"
            )
        return found

    def _value(self, key: bytes, name: str) -> Any:
        """An unpacked value; RecordError where there is none."""
        lmdb, msgpack = _packages()
        try:
            with self._environment().begin(buffers=True) as transaction:
                packed = transaction.get(key)
                value = None if packed is None else msgpack.unpackb(packed)
        except (lmdb.Error, msgpack.UnpackException, ValueError) as error:
            raise RecordError(f"{name}: {error}") from None
        if packed is None:
            raise RecordError(f"{name} is missing: expected the layout of Vec2Face+, see docs/data.md")
        return value

    def _environment(self):
        return _opened(os.fspath(self.path))


def _packages() -> tuple:
    return needed_package("lmdb", PURPOSE, INSTALL), needed_package("msgpack", PURPOSE, INSTALL)


@cache
def _opened(path: str):
    """An LMDB: a process may open it once. Without locks it is but a memory map, which survives a fork."""
    lmdb, _ = _packages()
    is_folder = os.path.isdir(path)
    try:
        opened = lmdb.open(path, subdir=is_folder, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise RecordError(f"{path}: {error}") from None
    size = os.path.getsize(os.path.join(path, "data.mdb") if is_folder else path)
    needed = (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
    if size < needed:  # to read behind the end of a memory map ends the process
        opened.close()
        raise RecordError(f"{path} is truncated: it has {size:,} bytes, its pages take {needed:,}")
    return opened


def _as_bytes(key: bytes | str) -> bytes:
    return key.encode() if isinstance(key, str) else bytes(key)
