"""Verification sets in insightface's `.bin` format: a pickle of (2P encoded images, P booleans).

Images 2i and 2i+1 form pair i. An image is JPEG or PNG data: bytes, a Python-2 string or a uint8 array.

plain_pickle.py reads it: nothing in a file is executed.
"""

import os
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from eval.readers import plain_pickle
from utils.errors import nearest
from utils.faces import SIZE, decode_rgb
from utils.files import whole_file

MAX_PAIRS_OF_AN_IMAGE = 1000  # on average: what repeats costs a byte or two, and 37,632 in memory


def decode_image(data) -> np.ndarray:
    """Encoded image -> `(112, 112, 3)` uint8, RGB.

    As in insightface, an image whose width is not 112 is resized (bicubic) until its shorter side is.

    Raises:
        ValueError: not an encoded image, or not square.
    """
    if not isinstance(data, (bytes, bytearray, np.ndarray)):
        raise ValueError(f"expected JPEG or PNG data as bytes or a uint8 array, got {type(data).__name__}")
    image = decode_rgb(bytes(data))
    height, width = image.shape[:2]
    if width != SIZE:
        size = (SIZE * width // min(height, width), SIZE * height // min(height, width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    if image.shape[:2] != (SIZE, SIZE):
        raise ValueError(f"it is {width}x{height}, expected a square face, aligned to {SIZE}x{SIZE}")
    return image


def require_bin(path: str | Path) -> Path:
    """The path of a verification set that exists.

    Raises:
        FileNotFoundError: it does not; the message names the `.bin` files that are there.
    """
    path = Path(path)
    if path.is_file():
        return path
    folder = path if path.is_dir() else path.parent
    found = sorted(other.name for other in folder.glob("*.bin"))
    there = ", ".join(found) if found else "no .bin file" if folder.is_dir() else "nothing: no such folder"
    wrong = f"{path} is a folder, expected a .bin file" if folder == path else f"no verification set {path}"
    raise FileNotFoundError(f"{wrong}{nearest(path.name, found)} ({folder} holds {there})")


def load_bin(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a verification set.

    Returns:
        images `(2P, 112, 112, 3)` uint8, RGB, and issame `(P,)` bool.
    Raises:
        FileNotFoundError: no such file.
        ValueError: a forbidden name in the pickle, an undecodable image, anything but two images a pair.
    """
    path = require_bin(path)
    try:
        content = plain_pickle.load(path.read_bytes())
    except ValueError as fault:
        raise ValueError(f"{path} is no verification set: {fault}") from fault
    if not (
        isinstance(content, tuple | list)
        and len(content) == 2
        and all(isinstance(c, tuple | list) or (isinstance(c, np.ndarray) and c.ndim == 1) for c in content)
    ):
        raise ValueError(f"{path} is no verification set: it does not hold (images, issame)")
    encoded, issame = list(content[0]), list(content[1])
    if len(encoded) != 2 * len(issame) or not encoded:
        raise ValueError(
            f"{path}: {len(encoded)} images for {len(issame)} pairs, expected two a pair and at least one"
        )
    if not all(isinstance(same, bool | int | np.bool_ | np.integer) and same in (0, 1) for same in issame):
        raise ValueError(f"{path}: issame has to hold one boolean a pair")
    different = len(set(map(id, encoded)))
    if len(encoded) > 2 * MAX_PAIRS_OF_AN_IMAGE * different:
        raise ValueError(f"{path}: {different} images fill {len(issame)} pairs, damaged or malicious")

    def decode(index: int) -> None:
        try:
            images[index] = decode_image(encoded[index])
        except ValueError as fault:
            raise ValueError(f"{path}: image {index} (pair {index // 2}): {fault}") from fault

    images = np.empty((len(encoded), SIZE, SIZE, 3), dtype=np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV decodes without Python's lock
        list(pool.map(decode, range(len(encoded))))
    return images, np.array(issame, dtype=bool)


def save_bin(path: str | Path, encoded: Sequence[bytes], issame: Sequence[bool]) -> None:
    """Write a verification set whole or not at all; insightface's code reads it too."""
    with whole_file(path) as partial, open(partial, "wb") as file:
        pickle.dump((list(encoded), [bool(same) for same in issame]), file, protocol=4)
