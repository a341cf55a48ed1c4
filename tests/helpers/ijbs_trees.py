"""A tiny tree in the layout of IJB-S: five people, four videos, noise for faces.

metadata      videos/1: 10 20 30      videos/2: 10 30 50      videos/3: 40 50      videos/9 (drone): 20 40
enrolled      10, 20 in g1; 30, 40 in g2; 50 nowhere.       surveillance galleries: 10, 20 by videos/1;
                                                            30 by videos/2; 40 by videos/3
searched      surveillance to stills: videos 1, 2, 3        surveillance to surveillance: videos 2, 3
              drone: videos/9 and img/90 (of 10)
no face       of 50 in videos/3, and in the second booking photograph of 40
"""

from pathlib import Path

import cv2
import numpy as np

SEEN = [(1, (10, 20, 30)), (2, (10, 30, 50)), (3, (40, 50)), (9, (20, 40))]  # video, people
HALVES = {"g1": (10, 20), "g2": (30, 40)}
ENROLLED_BY = {10: "videos/1.mp4", 20: "videos/1.mp4", 30: "videos/2.mp4", 40: "videos/3.mp4"}

IMAGES = [(10, "img/90.jpg")] + [(who, f"img/{who + i}.jpg") for who in (10, 20, 30, 40) for i in range(2)]
VIDEOS = [(who, f"videos/{video}.mp4") for video, people in SEEN for who in people]
FACELESS = {"50/videos_3_0.jpg", "50/videos_3_7.jpg", "40/img_41.jpg"}


def table(header: str, rows) -> str:
    return "".join(f"{line}\n" for line in (header, *(",".join(map(str, row)) for row in rows)))


def csv_files() -> dict[str, str]:
    """File name -> content, as published."""
    boxes = [(who, file, 4, 5, 60, 70) for who, file in IMAGES + VIDEOS]
    files = {"cs6_metadata.csv": table("SUBJECT_ID,FILENAME,X,Y,WIDTH,HEIGHT", boxes + boxes[:3])}
    for half, people in HALVES.items():
        galleries = {
            "single": [(who, f"img/{who}.jpg") for who in people],
            "booking": [(who, f"img/{who + i}.jpg") for who in people for i in range(2)],
            "surveillance": [(who, ENROLLED_BY[who]) for who in people],
        }
        for kind, rows in galleries.items():
            numbered = [(100 + i, *row, 4) for i, row in enumerate(rows)]
            name = f"galleries/cs6_surveillance_to_{kind}_{half}.csv"
            files[name] = table("TEMPLATE_ID,SUBJECT_ID,FILENAME,X", numbered)
    probes = {
        "surveillance_to_single-booking": ["videos/1.mp4", "videos/2.mp4", "videos/3.mp4"],
        "surveillance_to_surveillance": ["videos/2.mp4", "videos/3.mp4"],
        "uav_to_single-booking": ["videos/9.mp4", "img/90.jpg"],
    }
    for kind, names in probes.items():
        files[f"cs6_{kind}_probe.csv"] = table("FILENAME", [(name,) for name in names])
    return files


def frames() -> list[str]:
    """The faces that were found: two of each person in a video, one of an image."""
    stills = [f"{who}/{file.replace('/', '_')}" for who, file in IMAGES]
    moving = [
        f"{who}/{file.replace('/', '_').removesuffix('.mp4')}_{number}.jpg"
        for who, file in VIDEOS
        for number in (0, 7)
    ]
    return [name for name in stills + moving if name not in FACELESS]


def write_csv_files(root: Path, newline: str = "\n") -> Path:
    for name, text in csv_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.replace("\n", newline).encode())
    return root


def write_ijbs(root: Path) -> Path:
    """The csv files, the faces, and a list of them."""
    write_csv_files(root)
    for seed, name in enumerate(frames()):
        (root / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        cv2.imwrite(str(root / name), pixels)
    (root / "image_list.csv").write_text(table(",path", enumerate(frames())))
    return root
