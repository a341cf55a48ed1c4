"""Landmarks in csv files: those that align.py writes, and five or 68 points of anyone.

A row a face: `file` (relative to the folder of photographs), then x1,y1 … x5,y5 or x1,y1 … x68,y68 (iBUG's
scheme), named in the first row, in pixels of the photograph as it is shown. `left top width height score` are
read where they are there; other columns are not.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from eval.readers.text import ENCODING, text_of
from tools.alignment.faces import Face, around
from utils.faces import five_points
from utils.files import whole_file

BOX = ("left", "top", "width", "height")
POINTS = tuple(f"{axis}{point}" for point in range(1, 6) for axis in "xy")
COLUMNS = ("file", "aligned", *BOX, "score", *POINTS)


def write_landmarks(path: Path, rows: Iterable[tuple[str, str, Face]]) -> None:
    """Write (photograph, aligned image, face), whole or not at all."""
    text = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}  # a file's name may be no text
    with whole_file(path) as partial, open(partial, "w", **text) as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, aligned, face in rows:
            numbers = [*face.box, face.score, *face.points.ravel().tolist()]
            shown = (f"{number:.3f}" if np.isfinite(number) else "" for number in numbers)
            writer.writerow([name, aligned, *shown])


def read_landmarks(path: Path) -> dict[str, list[Face]]:
    """The faces of each file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: columns are missing, or a row holds no numbers; the message names the line.
    """
    found: dict[str, list[Face]] = {}
    with text_of(path), open(path, newline="", encoding=ENCODING) as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        names = _points(path, reader.fieldnames or [])
        for row in reader:
            if not any(row[name] for name in names):  # the middle of a photograph without a face
                continue
            try:
                points = np.array([float(row[name]) for name in names]).reshape(-1, 2)
                if not np.isfinite(points).all() or (np.ptp(points, axis=0) == 0).all():
                    raise ValueError
                box = [float(row[name]) for name in BOX] if set(BOX) <= row.keys() else None
                score = float(row.get("score") or 1)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path}, line {reader.line_num}: expected {len(names)} finite coordinates of a face"
                ) from None
            points = five_points(points[None])[0] if len(points) == 68 else points
            face = Face(tuple(box), score, points) if box else around(points, score)
            found.setdefault(Path(row["file"]).as_posix(), []).append(face)
    if not found:
        raise ValueError(f"{path} lists no faces")
    return found


def _points(path: Path, columns: Iterable[str]) -> list[str]:
    """The columns of the coordinates, in order."""
    for count in (68, 5):
        names = [f"{axis}{point}" for point in range(1, count + 1) for axis in "xy"]
        if {"file", *names} <= set(columns):
            return names
    raise ValueError(
        f"{path} begins with {','.join(columns) or 'nothing'}, expected the names file,x1,y1 … x5,y5 "
        "(or … x68,y68)"
    )
