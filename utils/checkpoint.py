"""Checkpoints: whole or absent, and independent of the number of ranks.

    step_00002000/
        manifest.json                       the files and their sizes
        shared.pt                           what is equal on every rank, written by rank 0
        classes_000000000-000042871.pt      per-class tensors, one file per rank: first class, last + 1
        classes_000042871-000085742.pt

A checkpoint is written to step_XXXXXXXX.tmp and renamed when every rank is done, so a folder without .tmp is
whole, whenever the run was stopped. Loading takes any range of classes out of the files through memory maps:
a rank reads its own rows, however many ranks wrote them. Every rank has to see the folder (a shared file
system).
"""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import torch
from torch import Tensor

from utils.distributed import barrier, rank

MANIFEST = "manifest.json"
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

    Args:
        shared: nested dicts and lists of tensors and plain values, equal on every rank.
        sharded: name -> `(num_local, ...)`, the rows of this rank's classes; the same names on every rank.
        class_start: first of this rank's classes; the ranges of the ranks follow one another without a gap.
    """
    assert keep >= 1, keep
    class_end = class_start + len(next(iter(sharded.values())))
    assert all(len(rows) == class_end - class_start for rows in sharded.values()), "sharded: unequal lengths"
    folder, name = Path(folder), f"step_{step:08d}"
    unfinished = folder / f"{name}.tmp"
    if rank() == 0:
        _sweep(folder)
        unfinished.mkdir(parents=True)
    barrier()
    if rank() == 0:
        _write(unfinished / "shared.pt", shared)
    if class_end > class_start:  # with more ranks than classes, some ranks have nothing to write
        _write(unfinished / f"classes_{class_start:09d}-{class_end:09d}.pt", sharded)
    barrier()
    if rank() == 0:
        sizes = {path.name: path.stat().st_size for path in sorted(unfinished.iterdir())}
        (unfinished / MANIFEST).write_text(json.dumps({"step": step, "files": sizes}, indent=1))
        if (folder / name).exists():
            _retire(folder, step)
        unfinished.rename(folder / name)
        _flush_to_disk(folder)
        kept = [other for other in _steps(folder) if other <= step][-keep:]
        for other in set(_steps(folder)) - set(kept):
            _retire(folder, other)
        _sweep(folder)
    barrier()
    return folder / name


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
    folder, steps = Path(folder), _steps(Path(folder))
    if not steps:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise FileNotFoundError(f"no checkpoint of step {step} in {folder}; there are those of steps {steps}")
    path = folder / f"step_{step:08d}"
    shards = _check_files(path)

    saved_classes, class_end = shards[-1][1], class_start + num_local
    if class_end > saved_classes or num_classes not in (None, saved_classes):
        wanted = num_classes or class_end
        raise ValueError(
            f"{path} holds {saved_classes} classes, but this run has {wanted}: other training data?"
        )
    parts = []
    for start, end, name in shards:
        # The first file also tells a rank without classes the names and widths of the tensors.
        if (start < class_end and end > class_start) or not parts:
            low, high = max(class_start - start, 0), max(class_end - start, 0)
            parts.append({key: rows[low:high] for key, rows in _read(path / name, mmap=True).items()})
    # torch.cat copies, so that the result no longer depends on the mapped files.
    return _read(path / "shared.pt"), {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def load_shared(folder: str | Path, step: int) -> dict:
    """The shared part of a checkpoint, its tensors mapped from the file: cheap where they are not looked at.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged.
    """
    path = Path(folder) / f"step_{step:08d}"
    _check_files(path)
    return _read(path / "shared.pt", mmap=True)


def _steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints, ascending."""
    found = [re.fullmatch(r"step_(\d{8,})", path.name) for path in folder.glob("step_*")]
    return sorted(int(match[1]) for match in found if match)


def _retire(folder: Path, step: int) -> None:
    """Hide a checkpoint by one rename before it is deleted: half-deleted it would look whole."""
    path = folder / f"step_{step:08d}"
    path.rename(path.with_name(f"{path.name}.old.tmp"))


def _sweep(folder: Path) -> None:
    """Delete checkpoints that are unfinished or retired."""
    for path in folder.glob("step_*.tmp"):
        shutil.rmtree(path)


def _check_files(path: Path) -> list[tuple[int, int, str]]:
    """(first class, last + 1, file name) of each shard, ascending.

    Raises:
        FileNotFoundError: a file of the manifest is missing.
        ValueError: the manifest is damaged, or a file has another size than it says.
    """
    remedy = f"remove {path} to go back to the checkpoint before"
    try:
        sizes = json.loads((path / MANIFEST).read_text())["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / MANIFEST} is damaged; {remedy}") from error
    for name, size in sizes.items():
        if not (path / name).exists():
            raise FileNotFoundError(f"{path / name} is missing; {remedy}")
        if (found := (path / name).stat().st_size) != size:
            raise ValueError(f"{path / name} is damaged: {found} bytes, written were {size}; {remedy}")
    ranges = {name: re.fullmatch(r"classes_(\d+)-(\d+)\.pt", name) for name in sizes}
    return sorted((int(match[1]), int(match[2]), name) for name, match in ranges.items() if match)


def _read(path: Path, *, mmap: bool = False) -> dict:
    try:
        return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is damaged; remove {path.parent} to go back to the checkpoint before"
        ) from error


def _write(path: Path, value: dict) -> None:
    with open(path, "wb") as file:
        torch.save(_plain(value), file)
        file.flush()
        os.fsync(file.fileno())  # on the disk before the folder gets its name: a power cut may come


def _plain(value):
    """`value` on the CPU, and made only of what weights_only can read back."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        is_view = value.untyped_storage().nbytes() > value.numel() * value.element_size()
        return value.clone() if is_view else value  # torch.save writes the whole storage behind a view
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
