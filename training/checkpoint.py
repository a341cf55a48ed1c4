"""Checkpoints: whole or absent, and independent of the number of ranks.

    step_00002000/
        manifest.json                       the files, their sizes and checksums
        shared.pt                           what is equal on every rank, written by rank 0
        classes_000000000-000042871.pt      per-class tensors, one file per rank: first class, last + 1
        classes_000042871-000085742.pt

A checkpoint is written to step_XXXXXXXX.tmp and renamed when every rank is done, so a folder without .tmp is
whole, whenever the run was stopped. Loading takes any range of classes out of the files through memory maps:
a rank holds its own rows only, however many ranks wrote them. Every rank has to see the folder (a shared file
system).

Numbers that are not finite are neither saved nor loaded. A rank compares the checksums of the files that its
classes are in, and reads these whole: on as many ranks as have saved, one file of classes each.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ranks.fail_together import fail_together
from training.manifest import DamagedError, Manifest, MissingError, is_whole, write_manifest
from utils.distributed import gather_objects, rank
from utils.log_files import LOGGER_NAME
from utils.tensor_files import on_cpu, require_finite, write_tensors

PLAIN = (bool, int, float, str, type(None))


def save(
    folder: str | Path,
    step: int,
    shared: dict,
    sharded: dict[str, Tensor],
    class_start: int,
    *,
    keep: int = 2,
) -> Path:
    """Write the checkpoint of `step`; every rank calls this. Returns its folder.

    Afterwards the `keep` newest checkpoints up to this step remain. Those of later steps are deleted: they
    are of a run that was given up, and training has started again before them.

    If something fails on one rank, it fails on all, and what was there before stays.

    Args:
        shared: nested dicts and lists of tensors and plain values, equal on every rank.
        sharded: name -> `(num_local, ...)`, the rows of this rank's classes; the same names on every rank.
        class_start: first of this rank's classes; the ranges of the ranks follow one another without a gap.
    Raises:
        ValueError: a number is not finite, or another rank failed.
        OSError: a full disk, for example.
    """
    assert keep >= 1, keep
    class_end = class_start + len(next(iter(sharded.values())))
    assert all(len(rows) == class_end - class_start for rows in sharded.values()), "sharded: unequal lengths"
    folder = Path(folder)
    own = {"shared.pt": shared} if rank() == 0 else {}
    if class_end > class_start:  # with more ranks than classes, some ranks have nothing to write
        own[f"classes_{class_start:09d}-{class_end:09d}.pt"] = sharded
    unfinished = folder / f"{_name(step)}.tmp"
    try:
        with fail_together():
            if rank() == 0:
                sweep(folder)
                unfinished.mkdir(parents=True)
        with fail_together():
            written = {file: _write(unfinished / file, content) for file, content in own.items()}
        files = {file: of for files in gather_objects(written) for file, of in files.items()}
        with fail_together():
            if rank() == 0:
                write_manifest(unfinished, step, files)
                _commit(folder, step, keep)
    except (OSError, ValueError):
        if rank() == 0:
            shutil.rmtree(unfinished, ignore_errors=True)  # a full disk has room for others again
        raise
    return folder / _name(step)


def latest_step(folder: str | Path) -> int | None:
    """The step of the newest checkpoint in `folder`; None where there is none."""
    return max(_steps(Path(folder)), default=None)


def load(
    folder: str | Path,
    class_start: int,
    num_local: int,
    step: int | None = None,
    *,
    num_classes: int | None = None,
) -> tuple[dict, dict[str, Tensor]]:
    """Read a checkpoint, for a rank that holds classes class_start … class_start + num_local − 1.

    Args:
        step: None: the newest.
        num_classes: of all ranks together; to be checked against the checkpoint's.
    Returns:
        (shared, sharded) as they were saved, on the CPU, sharded with this rank's rows.
    Raises:
        FileNotFoundError: no such checkpoint, or one of its files is gone.
        ValueError: a damaged file, or another number of classes.
    """
    with _opened(folder, step) as path:
        return _read(path, class_start, class_start + num_local, num_classes)


def load_shared(folder: str | Path, step: int) -> dict:
    """What is equal on every rank in the checkpoint of `step`, its tensors as maps of the file.

    Raises:
        FileNotFoundError, ValueError: as in `load`.
    """
    with _opened(folder, step) as path:
        manifest = Manifest(path)
        manifest.check_sizes()
        return manifest.read("shared.pt", mmap=True)


@contextmanager
def _opened(folder: str | Path, step: int | None) -> Iterator[Path]:
    """The folder of a checkpoint; damage that is found within is told on every rank, with the way out."""
    with fail_together():
        path = _find(Path(folder), step)
        try:
            yield path
        except DamagedError as error:
            kind = FileNotFoundError if isinstance(error, MissingError) else ValueError
            raise kind(f"{error}; {_remedy(path)}") from error


def _find(folder: Path, step: int | None) -> Path:
    """The folder of the checkpoint of `step`; None: of the newest."""
    steps = _steps(folder)
    if not steps:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    if step not in (None, *steps):
        raise FileNotFoundError(f"no checkpoint of step {step} in {folder}; there are those of steps {steps}")
    return folder / _name(steps[-1] if step is None else step)


def _read(
    path: Path, class_start: int, class_end: int, num_classes: int | None
) -> tuple[dict, dict[str, Tensor]]:
    manifest = Manifest(path)
    manifest.check_sizes()
    if manifest.checksums is None:
        logging.getLogger(LOGGER_NAME).info("%s is of an older version, without checksums", path)
    saved_classes = manifest.shards[-1][1]
    if class_end > saved_classes or num_classes not in (None, saved_classes):
        wanted = num_classes or class_end
        raise ValueError(
            f"{path} holds {saved_classes} classes, but this run has {wanted}: other training data?"
        )
    parts = []
    for start, end, name in manifest.shards:
        # The first file also tells a rank without classes the names and widths of the tensors.
        if (start < class_end and end > class_start) or not parts:
            low, high = max(class_start - start, 0), max(class_end - start, 0)
            parts.append({key: rows[low:high] for key, rows in manifest.read(name, mmap=True).items()})
    # torch.cat copies, so that the result no longer depends on the mapped files.
    return manifest.read("shared.pt"), {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _remedy(path: Path) -> str:
    """How to go on without the damaged checkpoint in `path`: what to remove, and what is then the newest."""
    folder, step = path.parent, int(path.name.removeprefix("step_"))
    damaged = [path.name]
    for earlier in reversed([other for other in _steps(folder) if other < step]):
        if is_whole(folder / _name(earlier)):
            names = " and ".join(damaged)
            return f"remove {names} from {folder} to go back to the checkpoint of step {earlier}"
        damaged.append(_name(earlier))
    return "no checkpoint before it is whole: start again, with another output=..."


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints, ascending."""
    found = [re.fullmatch(r"step_(\d{8,})", path.name) for path in folder.glob("step_*") if path.is_dir()]
    return sorted(int(match[1]) for match in found if match)


def _retire(folder: Path, step: int) -> None:
    """Hide a checkpoint by one rename before it is deleted: half-deleted it would look whole."""
    path = folder / _name(step)
    path.rename(path.with_name(f"{path.name}.old.tmp"))


def sweep(folder: Path) -> None:
    """Delete checkpoints that are unfinished or retired; nobody else may be writing there."""
    for path in folder.glob("step_*.tmp"):
        shutil.rmtree(path)


def _commit(folder: Path, step: int, keep: int) -> None:
    """Give the finished checkpoint its name, and delete those that it replaces."""
    if (folder / _name(step)).exists():
        _retire(folder, step)
    (folder / f"{_name(step)}.tmp").rename(folder / _name(step))
    _flush_to_disk(folder)
    kept = [other for other in _steps(folder) if other <= step][-keep:]
    for other in set(_steps(folder)) - set(kept):
        _retire(folder, other)
    sweep(folder)


def _write(path: Path, content: dict) -> tuple[int, int]:
    """Write a file; returns its size and checksum."""
    content = _plain(content)
    require_finite(content, f"{path.parent.stem} is not saved, checkpoints before it stay")
    checksum = write_tensors(path, content)
    return path.stat().st_size, checksum


def _plain(value):
    """`value` on the CPU, and made only of what weights_only can read back."""
    if isinstance(value, Tensor):
        return on_cpu(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if type(value) in PLAIN:  # not isinstance: NumPy's float64 is a float
        return value
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value)}: {value!r}")


def _flush_to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
