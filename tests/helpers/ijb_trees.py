"""A small IJB-B or IJB-C in its official layout: four subjects, two in each gallery, eight templates."""

from pathlib import Path

import cv2
import numpy as np

from eval.ijb.data import GALLERIES
from utils.faces import TEMPLATE

# template, subject, media of its images; odd templates are enrolled, even ones are probes
TEMPLATES = [
    (1, 70, [11, 11, 12]),
    (2, 70, [13]),
    (3, 50, [14]),
    (4, 50, [15, 15]),
    (5, 90, [16]),
    (6, 90, [17]),
    (7, 60, [18, 19]),
    (8, 60, [20]),
]
ENROLLED = [(1, 5), (3, 7)]  # templates of the two galleries


def write_ijb(root: Path, name: str = "IJBC") -> Path:
    """Write the tree; returns `root`. Rows are in no order; csv lines end in CRLF and have more columns."""
    rng = np.random.default_rng(0)
    meta, crops, prefix = root / name / "meta", root / name / "loose_crop", name.lower()
    meta.mkdir(parents=True), crops.mkdir()
    images = [(template, media) for template, _, medias in TEMPLATES for media in medias]
    order = rng.permutation(len(images))
    names = [f"{i}.jpg" for i in range(len(images))]
    for image in names:
        cv2.imwrite(str(crops / image), rng.integers(0, 256, (130, 124, 3), np.uint8))
    write(meta / f"{prefix}_face_tid_mid.txt", [(names[i], *images[i]) for i in order])
    points = [(names[i], *(TEMPLATE + i % 5).ravel().round(2), 0.5 + 0.03 * i) for i in order]
    write(meta / f"{prefix}_name_5pts_score.txt", points)
    who = {template: subject for template, subject, _ in TEMPLATES}
    pairs = [(a, b, int(who[a] == who[b])) for a in who for b in who if a < b]
    write(meta / f"{prefix}_template_pair_label.txt", pairs)
    lists = dict(zip((f"gallery_{part}" for part in GALLERIES[name]), ENROLLED))
    for kind, templates in (lists | {"probe_mixed": (2, 4, 6, 8)}).items():
        rows = [
            (t, who[t], names[i], 3) for t in templates for i, image in enumerate(images) if image[0] == t
        ]
        header = ("TEMPLATE_ID", "SUBJECT_ID", "FILENAME", "SIGHTING_ID")
        write(meta / f"{prefix}_1N_{kind}.csv", [header, *rows], delimiter=",", end="\r\n")
    return root


def write(path: Path, rows, delimiter: str = " ", end: str = "\n") -> None:
    path.write_text("".join(delimiter.join(map(str, row)) + end for row in rows), newline="")
