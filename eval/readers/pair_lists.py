"""Lists of pairs: csv files, and LFW's pairs.txt."""

import csv
from pathlib import Path

from utils.faces import IMAGE_SUFFIXES

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
    with open(path, newline="") as file:
        for line, row in enumerate(csv.reader(file, skipinitialspace=True), start=1):
            if not row or (line == 1 and row == ["path1", "path2", "issame"]):
                continue
            if len(row) != 3 or row[2].strip().lower() not in TRUTH:
                raise ValueError(
                    f"{path}, line {line}: {','.join(row)!r}, expected path1,path2,issame (1/0 or true/false)"
                )
            pairs.append((images / row[0], images / row[1], TRUTH[row[2].strip().lower()]))
    return pairs


def read_lfw_pairs(path: Path, images: Path) -> list[Pair]:
    """Lines `name n m` and `name n other m`, after a line of one or two counts.

    Raises:
        ValueError: a line of another form; the message names it.
    """

    def image(name: str, number: str) -> Path:
        stem = images / name / f"{name}_{int(number):04d}"
        files = [stem.with_name(stem.name + suffix) for suffix in IMAGE_SUFFIXES]
        return next((file for file in files if file.exists()), files[0])

    pairs = []
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        match text.split():
            case [name, first, second] if first.isdigit() and second.isdigit():
                pairs.append((image(name, first), image(name, second), True))
            case [name, first, other, second] if first.isdigit() and second.isdigit():
                pairs.append((image(name, first), image(other, second), False))
            case words if words and not (line == 1 and all(word.isdigit() for word in words)):
                raise ValueError(f"{path}, line {line}: {text!r}, expected `name n m` or `name n other m`")
    return pairs
