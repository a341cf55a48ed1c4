"""Verification sets in insightface's `.bin` format: a pickle of (2P encoded images, P booleans).

Images 2i and 2i+1 form pair i. An image is JPEG or PNG data: bytes, a Python-2 string or a uint8 array.

A pickle is a program, and these files are downloaded, so they are read by an unpickler that knows a short
list of names. NumPy's own constructors are not behind them: given a dtype and a buffer of the file's choice,
they follow any pointer (`numpy.ndarray(1, "O", b"8 bytes.")` crashes the interpreter). Stand-ins build arrays
of booleans and integers, and nothing else.
"""

import os
import pickle
from _codecs import encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from utils.errors import nearest
from utils.faces import SIZE, decode_rgb
from utils.files import whole_file


class PlainDtype:
    """Stands in for `numpy.dtype`: booleans and integers."""

    allowed = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")

    def __init__(self, name: str | bytes, *flags):
        name = name.decode() if isinstance(name, bytes) else name
        if name not in self.allowed:
            raise ValueError(f"it holds an array of dtype {name!r}, allowed are {', '.join(self.allowed)}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state):
        order = state[1]
        self.dtype = self.dtype.newbyteorder(order.decode() if isinstance(order, bytes) else order)


class PlainArray(np.ndarray):
    """An array whose pickled state may only bring a `PlainDtype`."""

    def __setstate__(self, state):
        _, shape, plain, is_fortran, data = state
        super().__setstate__((1, shape, plain.dtype, bool(is_fortran), bytes(data)))


def reconstruct(*_) -> PlainArray:
    """Stands in for NumPy's `_reconstruct`: an empty array, which the pickle then gives its state."""
    return PlainArray(0, np.uint8)


def from_buffer(data, plain: PlainDtype, shape, order, *_) -> np.ndarray:
    """Stands in for NumPy's `_frombuffer`."""
    return np.frombuffer(data, plain.dtype).reshape(shape, order=order)


def scalar(plain: PlainDtype, data: bytes) -> np.generic:
    """Stands in for NumPy's `scalar`."""
    return np.frombuffer(data, plain.dtype)[0]


ALLOWED = {
    ("_codecs", "encode"): encode,
    ("numpy", "dtype"): PlainDtype,
    ("numpy", "ndarray"): "only ever an argument",
}
for module in ("__builtin__", "builtins"):
    ALLOWED |= {
        (module, kind.__name__): kind for kind in (list, tuple, dict, set, frozenset, bytes, bytearray)
    }
for module in ("numpy.core", "numpy._core"):
    ALLOWED |= {
        (f"{module}.multiarray", "_reconstruct"): reconstruct,
        (f"{module}.multiarray", "scalar"): scalar,
        (f"{module}.numeric", "_frombuffer"): from_buffer,
    }


class AllowListUnpickler(pickle.Unpickler):
    """Loads containers, bytes and plain arrays; any other name is an error, before anything is imported."""

    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise ValueError(
                f"it asks for {module}.{name}, which nothing but a malicious or foreign file needs"
            )
        return ALLOWED[module, name]


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
    with open(path, "rb") as file:
        try:
            content = AllowListUnpickler(file, encoding="bytes").load()  # bytes: what Python 2 called str
        except Exception as fault:  # a damaged pickle can raise anything
            raise ValueError(f"{path} is no verification set: {fault or type(fault).__name__}") from fault
    if not (
        isinstance(content, (tuple, list))
        and len(content) == 2
        and all(hasattr(c, "__len__") for c in content)
    ):
        raise ValueError(f"{path} is no verification set: it does not hold (images, issame)")
    encoded, issame = list(content[0]), np.array(list(content[1]))
    if len(encoded) != 2 * len(issame) or not encoded:
        raise ValueError(
            f"{path}: {len(encoded)} images for {len(issame)} pairs, expected two a pair and at least one"
        )
    if issame.ndim != 1 or not np.isin(issame, (0, 1)).all():
        raise ValueError(f"{path}: issame has to hold one boolean a pair")

    def decode(index: int) -> None:
        try:
            images[index] = decode_image(encoded[index])
        except ValueError as fault:
            raise ValueError(f"{path}: image {index} (pair {index // 2}): {fault}") from fault

    images = np.empty((len(encoded), SIZE, SIZE, 3), dtype=np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV decodes without Python's lock
        list(pool.map(decode, range(len(encoded))))
    return images, issame.astype(bool)


def save_bin(path: str | Path, encoded: Sequence[bytes], issame: Sequence[bool]) -> None:
    """Write a verification set whole or not at all; insightface's code reads it too."""
    with whole_file(path) as partial, open(partial, "wb") as file:
        pickle.dump((list(encoded), [bool(same) for same in issame]), file, protocol=4)
