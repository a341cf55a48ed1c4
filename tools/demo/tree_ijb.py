"""IJB-B and IJB-C in small: loose crops, templates of stills and videos, 1:1 pairs, 1:N galleries and probes.

One row a face, also in the csv files, as NIST and insightface publish them: a template fills several rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from tools.demo.album import Album

GALLERIES = {"IJBB": ("S1", "S2"), "IJBC": ("G1", "G2")}


@dataclass
class Face:
    """One image, and what the tables say of it."""

    person: int
    subject: int
    template: int
    media: int  # frames of one video share it
    badness: float
    name: str = ""


def order_ijb(album: Album, rng: np.random.Generator, root: Path, people: Sequence[int]) -> list[Face]:
    """Orders the crops of <root> = …/IJBB or …/IJBC and writes all tables but that of the landmarks.

    Each person fills one template of one gallery, of stills, and two probes: a still, and a video with or
    without a still. So half of the probes have no mate in either gallery, and all have one in both together.
    """
    subject_of = rng.permutation(len(people)) + 1
    numbers = iter((rng.permutation(40 * len(people)) + 1).tolist())  # of templates and media, in no order
    faces, galleries, probes = [], ([], []), []

    def template(i: int, stills: int, frames: int) -> list[Face]:
        number, video, how_bad = next(numbers), next(numbers), rng.uniform(0.3, 0.9)
        content = [(next(numbers), rng.uniform(0, 0.3)) for _ in range(stills)]
        content += [(video, how_bad + rng.uniform(0, 0.1)) for _ in range(frames)]
        rows = [Face(people[i], int(subject_of[i]), number, media, badness) for media, badness in content]
        faces.extend(rows)
        return rows

    for i in range(len(people)):
        galleries[i % 2].extend(template(i, stills=rng.integers(1, 3), frames=0))
        probes.extend(template(i, stills=1, frames=0))
        probes.extend(template(i, stills=rng.integers(0, 2), frames=rng.integers(2, 4)))
    rng.shuffle(faces)  # the real lists are not sorted by template either
    for number, face in enumerate(faces, start=1):
        face.name = f"{number}.jpg"
        album.add(face.person, root / "loose_crop" / face.name, face.badness, loose=True)

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
    return faces


def write_landmarks(root: Path, faces: list[Face], landmarks: dict[Path, np.ndarray]) -> None:
    """The table with five landmarks and the detector's score, which falls with badness, for each face."""
    rows = []
    for face in faces:
        points = landmarks[root / "loose_crop" / face.name].ravel()
        score = 0.999 - 0.5 * face.badness
        rows.append(f"{face.name} {' '.join(f'{value:.3f}' for value in points)} {score:.4f}")
    _write(root / "meta" / f"{root.name.lower()}_name_5pts_score.txt", rows)


def _write(path: Path, lines) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
