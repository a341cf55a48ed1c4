"""A face that was found in a photograph, and which of several is meant."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CHOICES = ("largest", "central", "all")


class Face(NamedTuple):
    """In pixels of the photograph as it is shown, turned by its EXIF; (0, 0) is the first pixel."""

    box: tuple[float, float, float, float]  # left, top, width, height
    score: float  # of the detector, in [0, 1]
    points: np.ndarray  # (5, 2): left eye, right eye (as seen), nose, left and right corner of the mouth

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]

    def scaled(self, factor: float) -> "Face":
        """The same face in a photograph whose sides are `factor` times as long."""
        return Face(tuple(factor * side for side in self.box), self.score, (self.points + 0.5) * factor - 0.5)

    def moved(self, x: float, y: float) -> "Face":
        """The same face, so many pixels further right and down."""
        left, top, width, height = self.box
        return Face((left + x, top + y, width, height), self.score, self.points + np.array([x, y]))


def around(points: np.ndarray, score: float = 1.0) -> Face:
    """A face of which only the landmarks are known: its box is twice as wide and high as they reach."""
    low, high = points.min(axis=0), points.max(axis=0)
    side, centre = high - low, (high + low) / 2
    return Face((*(centre - side).tolist(), *(2 * side).tolist()), score, points)


def choose(faces: Sequence[Face], shape: tuple[int, int], which: str) -> list[Face]:
    """The faces that are taken, the largest first.

    Args:
        shape: height and width of the photograph.
        which: "largest"; "central": whose centre is nearest to the middle; "all".
    Raises:
        ValueError: another choice.
    """
    by_size = sorted(faces, key=lambda face: -face.area)
    if which == "all" or not by_size:
        return by_size
    if which == "largest":
        return by_size[:1]
    if which != "central":
        raise ValueError(f"faces={which!r}: allowed are {', '.join(CHOICES)}")

    def from_middle(face: Face) -> float:
        left, top, width, height = face.box
        return float(np.hypot(left + width / 2 - shape[1] / 2, top + height / 2 - shape[0] / 2))

    return [min(by_size, key=from_middle)]
