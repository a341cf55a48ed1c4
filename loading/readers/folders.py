"""Image files: one sub-folder per identity, or a list of paths."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loading.image_files import IMAGE_SUFFIXES, read_identity_folders
from loading.readers.base import FaceDataset
from utils.record_index import RecordError


class FileDataset(FaceDataset):
    """Image files and the identity of each.

    Args:
        root: what the paths are relative to.
        identities: names, in the order of the labels.
        paths: of the images, as bytes, which any name of a file is.
        labels: the number of each image's identity.
    """

    def __init__(self, root: Path, identities: list[str], paths: Sequence[bytes], labels: Sequence[int]):
        self.root, self.identities, self.num_classes = root, identities, len(identities)
        # Arrays, not lists: forked workers share the memory of an array. Reading a list changes the reference
        # counts of its items, and so each worker would end up with a copy.
        self._paths, self._labels = np.array(paths), np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def relative_paths(self) -> np.ndarray:
        """The names of all files, `(N,)` bytes."""
        return self._paths

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self.root / os.fsdecode(self._paths[index])

    def labels(self) -> np.ndarray:
        """The number of each image's identity, `(len(self),)` int64."""
        return self._labels

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Labels, and names of the files."""
        return {"labels": (self._labels,), "images": (self._paths,)}

    def encoded(self, index: int) -> tuple[bytes, int]:
        """The bytes of an image file and its label; RecordError where the file cannot be read."""
        path = self.path(index)
        try:
            return path.read_bytes(), int(self._labels[index])
        except OSError as error:
            raise RecordError(f"{path}: {error.strerror}") from None

    def name_of(self, index: int) -> str:
        return str(self.path(index))


class FolderDataset(FileDataset):
    """One sub-folder of images per identity. Labels number the names in sorted order: `.identities`.

    Which files count, and what is left out: see `loading.image_files`. `.left_out` says it in words.

    Raises:
        FileNotFoundError: no such folder, or no image one level below it.
    """

    def __init__(self, root: str | Path):
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such folder")
        identities, paths, labels, self.left_out = read_identity_folders(root)
        if not paths:
            rest = f" (it has {', '.join(self.left_out)})" if self.left_out else ""
            raise FileNotFoundError(
                f"{root}: neither train.rec nor images; expected train.rec and train.idx, "
                f"or {root.name}/<identity>/*{', *'.join(IMAGE_SUFFIXES)}{rest}"
            )
        super().__init__(root, identities, paths, labels)
        self.warnings = [f"{root}: left out: {', '.join(self.left_out)}"] if self.left_out else []
