"""Images of different people that look alike: two copies of one picture under two names spoil a training set.

An image is described by 128 bits, a difference hash of its rows and one of its columns: shrunk to 9x9 grey
pixels, is each of 8x8 darker than its right, and than its lower neighbour? A copy that was compressed or
scaled anew differs in few of them.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

MAX_BITS = 8  # that two copies may differ in, of 128


def describe(image: np.ndarray) -> np.ndarray:
    """The two hashes `(2,)` uint64 of an image `(H, W, 3)` uint8."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (9, 9), interpolation=cv2.INTER_AREA)
    bits = small[:8, 1:] > small[:8, :8], small[1:, :8] > small[:8, :8]
    return np.packbits(np.stack(bits).reshape(2, 64), axis=1).view("<u8")[:, 0]


def look_alikes(hashes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pairs of images of different labels `(n, 3)`: two indices, and the bits that they differ in.

    One of the two hashes has to be equal. Of many copies those of neighbouring labels are paired, so that
    there are never more pairs than images: memory and time are those of sorting.

    Args:
        hashes: `(N, 2)` uint64.
        labels: `(N,)`.
    """
    found = []
    for same, other in ((0, 1), (1, 0)):
        order = np.lexsort((labels, hashes[:, same]))
        one, two = order[:-1], order[1:]
        bits = np.bitwise_count(hashes[one, other] ^ hashes[two, other])
        alike = (hashes[one, same] == hashes[two, same]) & (labels[one] != labels[two]) & (bits <= MAX_BITS)
        pairs = np.sort(np.stack([one[alike], two[alike]], axis=1), axis=1)
        found.append(np.column_stack([pairs, bits[alike]]))
    return np.unique(np.concatenate(found), axis=0)


def write_look_alikes(path: Path, pairs: np.ndarray, row_of: Callable[[int], tuple[str, str]]) -> None:
    """Write a csv.

    Args:
        row_of: name and identity of an image.
    """
    with path.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow(["image_1", "identity_1", "image_2", "identity_2", "bits_of_128"])
        table.writerows([*row_of(one), *row_of(two), bits] for one, two, bits in pairs.tolist())
