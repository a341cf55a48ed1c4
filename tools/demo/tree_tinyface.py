"""TinyFace in small: probes, their mates and distractors, each as a small original and as an aligned face."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tools.demo.album import Album, Request

MIN_DEGRADATION = 0.4
MAT_TEXT = 116  # bytes of text that a MATLAB file begins with


def request_tinyface(
    album: Album, rng: np.random.Generator, root: Path, known: Sequence[int], strangers: Sequence[int]
) -> None:
    """Requests the images and writes the lists. Known people have two probes and one or two mates each."""
    testing, aligned = root / "tinyface" / "Testing_Set", root / "aligned_pad_0.1_pad_high"
    names = {"Probe": [], "Gallery_Match": [], "Gallery_Distractor": []}

    def add(person: int, folder: str, name: str) -> None:
        degradation = rng.uniform(MIN_DEGRADATION, 1)
        album.add(person, Request(aligned / folder / name, degradation, original=testing / folder / name))
        names[folder].append(name)

    for identity, person in enumerate(known, start=1):
        for number in range(1, 1 + rng.integers(3, 5)):
            add(person, "Probe" if number < 3 else "Gallery_Match", f"{identity}_{number}.jpg")
    for photo, person in enumerate(strangers, start=1):  # the real set does not know who these people are
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
    """Rows of texts in the form that SciPy saves as a cell of MATLAB."""
    content = np.empty((len(rows), len(rows[0])), dtype=object)
    content[:] = rows
    return content


def save_mat(path: Path, variables: dict[str, np.ndarray]) -> None:
    """A MATLAB file that is the same whenever it is written: SciPy's has the time in its text header."""
    file = io.BytesIO()
    savemat(file, variables)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(MAT_TEXT) + file.getvalue()[MAT_TEXT:])
