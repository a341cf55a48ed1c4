"""Pairs of aligned faces from what a user has: a `.bin` set, or a folder with a sub-folder an identity."""

from pathlib import Path

import numpy as np

from dataset import FolderDataset
from eval.kfold import load_set
from eval.readers.faces import AlignedFaces


def choose_pairs(path: Path, num_pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `num_pairs` pairs of a `.bin` set, exactly as many of a folder.

    Of a set with more pairs they are the first of the same person and the first of different people, in turn.
    A smaller set is returned whole, in its order.

    Args:
        seed: of the pairs that are drawn from a folder.
    Returns:
        images `(2P, 112, 112, 3)` uint8, RGB, and issame `(P,)` bool, as of `load_bin`.
    Raises:
        FileNotFoundError, ValueError: see `load_set` and `draw_pairs`.
    """
    if path.is_dir():
        return draw_pairs(path, num_pairs, seed)
    images, issame = load_set(path)
    if num_pairs >= len(issame):
        return images, issame
    place = np.where(issame, issame.cumsum(), (~issame).cumsum())  # (P,) among the pairs of its kind
    chosen = np.argsort(place, kind="stable")[:num_pairs]
    rows = np.stack([2 * chosen, 2 * chosen + 1], axis=1).ravel()
    return images[rows], issame[chosen]


def draw_pairs(root: Path, num_pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of the faces below a folder, of the same person and of different people in turn.

    First people are drawn uniformly, then images of each; no pair comes twice.

    Raises:
        FileNotFoundError: no images.
        ValueError: too few images for that many pairs, or an image that is not aligned.
    """
    faces = FolderDataset(root)
    people = np.split(np.arange(len(faces)), np.flatnonzero(np.diff(faces.labels())) + 1)
    size = np.array([len(person) for person in people])
    possible = (size * (size - 1)).sum() // 2, (len(faces) ** 2 - (size**2).sum()) // 2
    wanted = (num_pairs + 1) // 2, num_pairs // 2  # of the same person, of different people
    for kind, have, want in zip(("one person", "different people"), possible, wanted):
        if have < want:
            raise ValueError(f"{root} has {have} pairs of {kind}, {num_pairs} pairs take {want} of them")
    random = np.random.default_rng(seed)
    several = [person for person in people if len(person) > 1]
    same, other = {}, {}  # ordered sets
    while len(same) < wanted[0]:
        person = several[random.integers(len(several))]
        same[tuple(sorted(random.choice(person, 2, replace=False)))] = True
    while len(other) < wanted[1]:
        two = random.choice(len(people), 2, replace=False)
        other[tuple(sorted(random.choice(people[person]) for person in two))] = True
    pairs = np.empty((num_pairs, 2), dtype=int)
    pairs[0::2], pairs[1::2] = list(same), list(other)
    images = AlignedFaces(faces.path(index) for index in pairs.ravel())[:]
    return images, np.arange(num_pairs) % 2 == 0
