"""IJB-B and IJB-C in small: loose crops, templates of stills and videos, 1:1 pairs, 1:N galleries and probes.

A row is a face, in the csv files too, as NIST and insightface publish them: a template has several rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from tools.demo.album import Album, Request

GALLERIES = {"IJBB": ("S1", "S2"), "IJBC": ("G1", "G2")}
SHARES = {"IJBB": 0.5, "IJBC": 1.0}  # of the known people, in each tree


@dataclass
class Face:
    """One image, and what the tables say of it."""

    person: int
    subject: int
    template: int
    media: int  # the same for all frames of a video
    degradation: float
    name: str = ""


def request_ijb(
    album: Album, rng: np.random.Generator, root: Path, known: Sequence[int], strangers: Sequence[int]
) -> Callable[[dict[Path, np.ndarray]], None]:
    """Requests the loose crops and writes all tables but one. root: …/IJBB or …/IJBC.

    Each person has a template of stills in one of the two galleries, and two probes: a still, and a video
    with or without a still. So each gallery has a mate for half of the probes, and both together have one
    for every probe. There are no strangers.

    Returns what writes the last table: write_landmarks, when the landmarks of the crops are known.
    """
    people = known[: int(SHARES[root.name] * len(known))]
    subject_of = rng.permutation(len(people)) + 1
    numbers = iter((rng.permutation(40 * len(people)) + 1).tolist())  # of templates and media, in no order
    faces, galleries, probes = [], ([], []), []

    def template(i: int, stills: int, frames: int) -> list[Face]:
        number, video, of_video = next(numbers), next(numbers), rng.uniform(0.3, 0.9)
        # (media, degradation) of each face; the frames of a video have about the same degradation
        content = [(next(numbers), rng.uniform(0, 0.3)) for _ in range(stills)]
        content += [(video, of_video + rng.uniform(0, 0.1)) for _ in range(frames)]
        rows = [Face(people[i], int(subject_of[i]), number, media, d) for media, d in content]
        faces.extend(rows)
        return rows

    for i in range(len(people)):
        galleries[i % 2].extend(template(i, stills=rng.integers(1, 3), frames=0))
        probes.extend(template(i, stills=1, frames=0))
        probes.extend(template(i, stills=rng.integers(0, 2), frames=rng.integers(2, 4)))
    rng.shuffle(faces)  # as in the real lists, which are not sorted by template
    for number, face in enumerate(faces, start=1):
        face.name = f"{number}.jpg"
        path = root / "loose_crop" / face.name
        album.add(face.person, Request(path, face.degradation, loose=True))

    meta, prefix = root / "meta", root.name.lower()
    meta.mkdir(parents=True)
    rows = (f"{face.name} {face.template} {face.media}" for face in faces)
    _write(meta / f"{prefix}_face_tid_mid.txt", rows)
    subjects = sorted({face.template: face.subject for face in faces}.items())
    pairs = (f"{one} {other} {int(s == t)}" for (one, s), (other, t) in combinations(subjects, 2))
    _write(meta / f"{prefix}_template_pair_label.txt", pairs)
    lists = {f"gallery_{half}": rows for half, rows in zip(GALLERIES[root.name], galleries)}
    for kind, rows in (lists | {"probe_mixed": probes}).items():
        table = (f"{face.template},{face.subject},{face.name},{face.media}" for face in rows)
        header = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID"
        _write(meta / f"{prefix}_1N_{kind}.csv", [header, *table])
    return partial(write_landmarks, root, faces)


def write_landmarks(root: Path, faces: list[Face], landmarks: dict[Path, np.ndarray]) -> None:
    """The table of landmarks, with the score of the detector, which is lower for more degradation."""
    rows = []
    for face in faces:
        points = landmarks[root / "loose_crop" / face.name].ravel()
        score = 0.999 - 0.5 * face.degradation
        rows.append(f"{face.name} {' '.join(f'{value:.3f}' for value in points)} {score:.4f}")
    _write(root / "meta" / f"{root.name.lower()}_name_5pts_score.txt", rows)


def _write(path: Path, lines) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
