"""TinyFace in small: probes, their mates and distractors of few pixels, as found and aligned."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tools.demo.album import Album

LEAST_BADNESS = 0.4
MAT_TEXT = 116  # bytes of text that a MATLAB file begins with


def order_tinyface(
    album: Album, rng: np.random.Generator, root: Path, people: Sequence[int], strangers: Sequence[int]
) -> None:
    """Orders the images and writes the lists. Each of `people` has two probes and one or two mates."""
    testing, aligned = root / "tinyface" / "Testing_Set", root / "aligned_pad_0.1_pad_high"
    names = {"Probe": [], "Gallery_Match": [], "Gallery_Distractor": []}

    def add(person: int, folder: str, name: str) -> None:
        places = aligned / folder / name, testing / folder / name
        album.add(person, places[0], rng.uniform(LEAST_BADNESS, 1), original=places[1])
        names[folder].append(name)

    for identity, person in enumerate(people, start=1):
        for number in range(1, 1 + rng.integers(3, 5)):
            add(person, "Probe" if number < 3 else "Gallery_Match", f"{identity}_{number}.jpg")
    for photo, person in enumerate(strangers, start=1):  # named after the photograph: the person is unknown
        for number in (1, 2):
            add(person, "Gallery_Distractor", f"{photo}_{number}_face{rng.integers(1, 20)}.jpg")

    testing.mkdir(parents=True, exist_ok=True)
    for file, folder, key in (("probe", "Probe", "probe"), ("gallery_match", "Gallery_Match", "gallery")):
        ids = [int(name.split("_")[0]) for name in names[folder]]
        save_identities(testing / f"{file}_img_ID_pairs.mat", key, names[folder], ids)


def save_identities(path: Path, key: str, names: list[str], ids: list[int]) -> None:
    """A MATLAB file with names, a cell (N, 1) `<key>_set`, and numbers (N, 1) `<key>_ids`."""
    save_mat(path, {f"{key}_set": cell([[name] for name in names]), f"{key}_ids": np.array(ids)[:, None]})


def cell(rows: list) -> np.ndarray:
    """Rows of texts as SciPy wants a cell of MATLAB."""
    content = np.empty((len(rows), len(rows[0])), dtype=object)
    content[:] = rows
    return content


def save_mat(path: Path, variables: dict[str, np.ndarray]) -> None:
    """A MATLAB file, the same whenever it is written: SciPy puts the time into its text header."""
    file = io.BytesIO()
    savemat(file, variables)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(MAT_TEXT) + file.getvalue()[MAT_TEXT:])
