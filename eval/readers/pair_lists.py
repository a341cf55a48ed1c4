"""Lists of pairs: csv files, and LFW's pairs.txt."""

import csv
import os
from pathlib import Path

from eval.readers.text import ENCODING, read_text, text_of
from loading.image_files import IMAGE_SUFFIXES

Pair = tuple[Path, Path, bool]
TRUTH = {"1": True, "true": True, "0": False, "false": False}


def read_pairs(path: Path, images: Path) -> list[Pair]:
    """The pairs of a `*.csv`, or of a list in LFW's format.

    Args:
        images: the folder that the names are relative to.
    Raises:
        ValueError: a malformed line, or no pair at all.
    """
    try:
        pairs = (read_csv_pairs if path.suffix.lower() == ".csv" else read_lfw_pairs)(path, images)
    except (ValueError, OSError, csv.Error) as error:  # no text, no number, no name that a file can have
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is no list of pairs: {str(error)[:200]}") from error
    if not pairs:
        raise ValueError(f"{path} lists no pairs")
    return pairs


def read_csv_pairs(path: Path, images: Path) -> list[Pair]:
    """Rows `path1,path2,issame`.

    Raises:
        ValueError: a row of another form; the message names the line.
    """
    pairs = []
    with text_of(path), open(path, newline="", encoding=ENCODING) as file:
        for line, row in enumerate(csv.reader(file, skipinitialspace=True), start=1):
            row = [field.strip() for field in row]
            if not any(row) or (line == 1 and row == ["path1", "path2", "issame"]):
                continue
            if len(row) != 3 or row[2].lower() not in TRUTH:
                raise ValueError(
                    f"{path}, line {line}: {','.join(row)!r}, expected path1,path2,issame (1/0 or true/false)"
                )
            first, second = (inside(images, name, f"{path}, line {line}") for name in row[:2])
            pairs.append((first, second, TRUTH[row[2].lower()]))
    return pairs


def inside(folder: Path, name: str, place: str) -> Path:
    """The file that a list names, which has to lie below a folder: a list may come from anywhere.

    Raises:
        ValueError: `../` or an absolute path leads elsewhere; `place` is where the name stands.
    """
    path = folder / name
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        raise ValueError(f"{place}: {name!r} does not lie below {folder}, where the list's images have to be")
    return path


def read_lfw_pairs(path: Path, images: Path) -> list[Pair]:
    """Lines `name n m` and `name n other m`, after a line of one or two counts.

    Raises:
        ValueError: a line of another form; the message names it.
    """

    def image(name: str, number: str) -> Path:
        stem = inside(images, f"{name}/{name}_{int(number):04d}", f"{path}, line {line}")
        files = [stem.with_name(stem.name + suffix) for suffix in IMAGE_SUFFIXES]
        return next((file for file in files if file.exists()), files[0])

    pairs = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        match text.split():
            case [name, first, second] if first.isdecimal() and second.isdecimal():
                pairs.append((image(name, first), image(name, second), True))
            case [name, first, other, second] if first.isdecimal() and second.isdecimal():
                pairs.append((image(name, first), image(other, second), False))
            case words if words and not (line == 1 and all(word.isdecimal() for word in words)):
                raise ValueError(f"{path}, line {line}: {text!r}, expected `name n m` or `name n other m`")
    return pairs
