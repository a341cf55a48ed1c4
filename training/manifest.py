"""The files of one checkpoint: which there are, their sizes and checksums, and whether they are still so."""

import json
import os
import re
from pathlib import Path

import torch

from utils.files import named_errors, read_json
from utils.tensor_files import file_checksum, first_not_finite

NAME = "manifest.json"


class DamagedError(ValueError):
    """A file of a checkpoint is not what was written."""


class MissingError(DamagedError, FileNotFoundError):
    """A file of a checkpoint is gone."""


class Manifest:
    """The list of a checkpoint's files, read from its folder.

    Attributes: sizes, in bytes by name; checksums by name, None where an older version wrote none; shards,
    (first class, last + 1, file name) of each, ascending.

    Raises:
        MissingError: there is no manifest.
        DamagedError: it is none.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        path = folder / NAME
        try:
            content = read_json(path)
            self.sizes = dict(content["files"])
            self.checksums = dict(content["crc32"]) if "crc32" in content else None
            others = self.sizes.keys() - {"shared.pt"}
            ranges = {name: re.fullmatch(r"classes_(\d+)-(\d+)\.pt", name) for name in others}
        except FileNotFoundError:
            raise MissingError(f"{path} is missing") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{path} is damaged") from error
        if self.checksums is not None and list(self.checksums) != list(self.sizes):
            raise DamagedError(f"{path} is damaged: it has sizes and checksums of different files")
        self.shards = sorted((int(match[1]), int(match[2]), name) for name, match in ranges.items() if match)
        if len(self.shards) < len(others):  # another file, perhaps of another folder
            raise DamagedError(f"{path} is damaged: it lists other files than shared.pt and classes_*.pt")
        starts, ends = [start for start, _, _ in self.shards], [end for _, end, _ in self.shards]
        if not starts or starts != [0, *ends[:-1]] or "shared.pt" not in self.sizes:
            raise DamagedError(f"{path} is damaged: it does not list shared.pt and all classes")

    def check_sizes(self) -> None:
        """Every file has to be there, with its size: quick, however large they are.

        Raises:
            DamagedError
        """
        for name, size in self.sizes.items():
            path = self.folder / name
            if not path.exists():
                raise MissingError(f"{path} is missing")
            if (found := path.stat().st_size) != size:
                raise DamagedError(f"{path} is damaged: {found} bytes, written were {size}")

    def read(self, name: str, *, mmap: bool = False) -> dict:
        """The content of a file, on the CPU, if its checksum is right: reads all of it, about 1 s for 1 GB.

        Args:
            mmap: the tensors are maps of the file, so that a slice costs the memory of the slice.
        Raises:
            DamagedError: another checksum, nothing that torch.save writes, or numbers that are not finite.
        """
        path = self.folder / name
        if self.checksums is not None and f"{file_checksum(path):08x}" != self.checksums[name]:
            raise DamagedError(f"{path} is damaged: its checksum is another than when it was written")
        try:
            content = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
            found = first_not_finite(content)
        except Exception as error:  # without a checksum it may hold any bytes, for which torch has no class
            raise DamagedError(f"{path} is damaged") from error
        if found:
            raise DamagedError(f"{path} holds numbers that are not finite, first in {found}")
        return content


def write_manifest(folder: Path, step: int, files: dict[str, tuple[int, int]]) -> None:
    """Write the list of the files in `folder`: name -> (size in bytes, checksum)."""
    sizes = {name: size for name, (size, _) in files.items()}
    checksums = {name: f"{checksum:08x}" for name, (_, checksum) in files.items()}
    with named_errors(folder / NAME), open(folder / NAME, "w") as file:
        json.dump({"step": step, "files": sizes, "crc32": checksums}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def is_whole(folder: Path) -> bool:
    """Whether all files of a checkpoint are as they were written, as far as can be told; reads them all."""
    try:
        manifest = Manifest(folder)
        manifest.check_sizes()
        for name in manifest.sizes:
            manifest.read(name, mmap=True)
    except (DamagedError, OSError):
        return False
    return True
