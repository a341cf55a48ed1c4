"""QMUL-SurvFace in small: verification pairs; enrolled people, their probes, and probes of strangers."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from tools.demo.album import Album, Request
from tools.demo.tree_tinyface import cell, save_identities, save_mat

MIN_DEGRADATION = 0.4
IMAGES_A_PERSON = 6  # for verification: 15 pairs each, so 36 people give enough pairs for FAR = 0.001


def request_survface(
    album: Album, rng: np.random.Generator, root: Path, known: Sequence[int], strangers: Sequence[int]
) -> None:
    """Requests the images and writes the lists.

    Verification shows the known people: all pairs of one person, and as many pairs of two. For identification
    the first half of the known people is enrolled, with two images each. These people and the strangers have
    two probes each.
    """

    def add(person: int, originals: Path, aligned: Path, name: str) -> str:
        degradation = rng.uniform(MIN_DEGRADATION, 1)
        album.add(person, Request(aligned / name, degradation, original=originals / name))
        return name

    lists, images = root / "QMUL-SurvFace" / "Face_Verification_Test_Set", "verification_images"
    names = [
        add(person, lists / images, root / "surv_ver_origin" / images, f"{10_000 + i}_cam{camera}_1.jpg")
        for i, person in enumerate(known, start=1)
        for camera in range(1, 1 + IMAGES_A_PERSON)
    ]
    pairs = {True: [], False: []}
    for one, other in combinations(names, 2):
        pairs[one.split("_")[0] == other.split("_")[0]].append((one, other))
    chosen = rng.choice(len(pairs[False]), len(pairs[True]), replace=False)
    pairs[False] = [pairs[False][i] for i in chosen]
    lists.mkdir(parents=True)
    for kind, same in (("positive", True), ("negative", False)):
        save_mat(lists / f"{kind}_pairs_names.mat", {f"{kind}_pairs_names": cell(pairs[same])})

    lists, aligned = root / "QMUL-SurvFace" / "Face_Identification_Test_Set", root / "surv_align"
    lists.mkdir()
    enrolled = list(enumerate(known[: (len(known) + 1) // 2], start=1))
    cameras = {
        "gallery": (enrolled, (1, 2)),
        "mated_probe": (enrolled, (3, 4)),
        "unmated_probe": (enumerate(strangers, start=5000), (1, 2)),
    }
    for folder, (shown, numbers) in cameras.items():
        rows = [
            (add(person, lists / folder, aligned / folder, f"{20_000 + i}_cam{camera}_1.jpg"), i)
            for i, person in shown
            for camera in numbers
        ]
        if folder != "unmated_probe":  # the real set has no list of these: nobody knows who they are
            save_identities(lists / f"{folder}_img_ID_pairs.mat", folder, *map(list, zip(*rows)))
