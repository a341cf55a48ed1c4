"""Files that are there whole or not at all."""

import errno
import fcntl
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` at the end, or is removed after an error.

    Files of this kind that a killed process has left there are removed first.

    Raises:
        OSError: the file cannot be written (a full disk, a quota); `filename` is `path`.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    remove_partial_files(path.parent, path.name)
    descriptor = None
    try:
        with named_errors(path, partial):
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
            with suppress(OSError):  # a file system without locks: the file stays if this process is killed
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # held as long as the process lives, so a sign of life
            yield partial
            partial.replace(path)
    finally:
        if descriptor is not None:
            partial.unlink(missing_ok=True)
            os.close(descriptor)


@contextmanager
def whole_files(path: str | os.PathLike) -> Iterator[Path]:
    """A folder beside `path` to write it to, under its own name, and files that belong to it.

    At the end all of them move to the folder of `path`, `path` last: whoever finds it finds the others.
    """
    with _partial_folder(path) as partial:
        yield partial
        for file in sorted(partial.iterdir(), key=lambda file: file.name == Path(path).name):
            file.replace(Path(path).parent / file.name)


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill that becomes `path` at the end, or is removed after an error.

    Raises:
        FileExistsError: there is a file or folder of this name already.
    """
    if Path(path).exists():
        raise FileExistsError(f"{path} exists already: remove it, or choose another --out")
    with _partial_folder(path) as partial:
        yield partial
        partial.rename(path)


@contextmanager
def _partial_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder beside `path` that is gone at the end, whatever happens."""
    partial = Path(path).with_name(f"{Path(path).name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial_files(folder: str | os.PathLike, name: str | None = None) -> None:
    """Delete what killed writers of `whole_file` have left in `folder`; what is being written stays.

    A living writer is known by its lock, not by the number in the name: that is the number of a process of
    this or another machine, and may belong to another process by now.

    Args:
        name: of the one file whose leftovers are meant; None: of all.
    """
    for partial in Path(folder).glob(f"{glob.escape(name) if name else '*'}.*.partial"):
        if not re.search(r"\.\d+\.partial$", partial.name):
            continue
        with suppress(OSError):  # locked, gone already, or on a file system that cannot tell: it stays
            descriptor = os.open(partial, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def named_errors(path: str | os.PathLike, *also: str | os.PathLike) -> Iterator[None]:
    """An OSError inside that names no file, or one of `also`, names `path`: a write does not say to what."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None or error.filename in map(os.fspath, also)
        if unnamed and error.errno is not None:  # without a number it shows no file name
            error.filename = os.fspath(path)
        raise


def try_writing(path: str | os.PathLike) -> None:
    """Write a small file where `path` will be, and remove it: what would fail after the work fails before it.

    Raises:
        OSError: it cannot be written there, or `path` has something in its way; `filename` is `path`.
    """
    place = Path(path)
    while not place.is_dir():
        if place.exists() and place != Path(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
        place = place.parent
    probe = place / f".write_test_{os.getpid()}"
    try:
        with named_errors(path, probe):
            probe.write_bytes(bytes(4096))
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file holds; a ValueError where it is none, or nested deeper than Python can follow."""
    try:
        return json.loads(Path(path).read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def write_json(path: str | os.PathLike, content: dict) -> None:
    """Write `content`; what JSON has no type for becomes text. Makes the folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, default=str) + "\n")


def unlike_names(paths: Sequence[str | os.PathLike], *, stems: bool = False) -> list[str]:
    """A name for each file or folder: its own, with so many folders above it as tell them apart.

    Args:
        stems: without the suffix of the file.
    Raises:
        ValueError: one is named twice.
    """
    resolved = [Path(path).resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path in resolved if resolved.count(path) > 1)
        raise ValueError(f"{twice} is named twice: expected each once")
    if stems and len({path.with_suffix("") for path in resolved}) == len(resolved):
        resolved = [path.with_suffix("") for path in resolved]
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in resolved]
