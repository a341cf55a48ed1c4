"""IJB-S: the frames in which a face was found and aligned, each with its sighting.

A frame is `<subject>/videos_<video>_<frame>.jpg` or `<subject>/img_<image>.jpg`, as in AdaFace's list. A
sighting in which no face was found has no frame, and adds nothing to its templates.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.ijbs.data import Sighting
from eval.readers.errors import MissingFilesError
from eval.readers.pair_lists import inside
from eval.readers.tables import read_rows
from loading.image_files import is_image


@dataclass(frozen=True)
class Frames:
    """N aligned faces, those of a sighting side by side."""

    paths: list[Path]
    sighting: np.ndarray  # (N,) numbers, ascending
    num_unused: int  # further frames, which no template has


def sighting_of(frame: str) -> Sighting:
    """The person and the medium of a frame, by its path.

    Raises:
        ValueError: the path has neither form.
    """
    folder, name = os.path.split(frame)
    subject, stem = os.path.basename(folder), os.path.splitext(name)[0]
    kind, *fields = stem.split("_")
    if subject.isdecimal() and fields and all(fields):
        if kind == "videos" and len(fields) > 1:
            return int(subject), f"videos_{fields[0]}"
        if kind == "img":
            return int(subject), stem
    raise ValueError(f"{frame!r} is not <subject>/videos_<video>_<frame>.jpg or <subject>/img_<image>.jpg")


def listed_frames(path: Path) -> list[tuple[str, str]]:
    """The frames of a list, each as place, such as " line 2", and name.

    A `.csv` has a header and the columns number, path, ... as AdaFace's; other files have a path a line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed line; a path that is listed twice.
    """
    if csv := path.suffix.lower() == ".csv":
        names = read_rows(path, {"number": int, "path": str}, header=True, delimiter=",", extra=True)["path"]
    else:
        names = read_rows(path, {"path": str})["path"]
    lines = {}
    for line, name in enumerate(names, start=1 + csv):
        if lines.setdefault(name, line) != line:
            raise ValueError(f"{path} line {line}: {name} is in line {lines[name]} already")
    return [(f" line {line}", name) for name, line in lines.items()]


def found_frames(root: Path) -> list[tuple[str, str]]:
    """Every image in the folders of `root` that have a number for a name: "" for the place, and name."""
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name.isdecimal())
    return [
        ("", f"{folder}/{name}") for folder in folders for name in os.listdir(root / folder) if is_image(name)
    ]


def read_frames(root: str | Path, sightings: dict[Sighting, int], listed: str | Path | None = None) -> Frames:
    """The frames of the sightings that templates are made of, in an order that does not depend on the disk.

    Args:
        root: folder of `<subject>/…jpg`.
        sightings: the numbers of those that are wanted.
        listed: see `listed_frames`, of paths below `root`; None: every image that is there.
    Raises:
        FileNotFoundError: no such folder or list; frames that are listed but not there; no frame at all.
        ValueError: a frame whose name has no known form or leads out of `root`, or see `listed_frames`.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    entries = found_frames(root) if listed is None else listed_frames(Path(listed))
    source = root if listed is None else listed
    wanted, missing = [], []
    for place, name in entries:
        try:
            number = sightings.get(sighting_of(name))
        except ValueError as fault:
            raise ValueError(f"{source}{place}: {fault}") from None
        if listed is not None and not inside(root, name, f"{source}{place}").is_file():
            missing.append(f"{name} of{place}")
        if number is not None:
            wanted.append((number, name))
    if missing:
        raise MissingFilesError(f"{source}: of its {len(entries):,} frames {root} lacks", missing)
    if not wanted:
        raise FileNotFoundError(f"{source}: {len(entries):,} frames, none of them of a template")
    wanted.sort()
    numbers = np.array([number for number, _ in wanted])
    return Frames([root / name for _, name in wanted], numbers, len(entries) - len(wanted))
