"""MATLAB files of version 5 to 7.2: numbers, text, cells and structs, read with every length checked.

    file      text (116 bytes) | 8 bytes | version 0x0100 | "MI" as a 16-bit number, tells the byte order
    element   type, number of bytes (uint32 each) | data | zeros up to a multiple of 8
    small     number of bytes, type (in one uint32: high half, low half) | data in 4 bytes
    array     an element of type 14, made of elements: flags (class, attributes), dimensions, name, content

An element of type 15 is another one, compressed by zlib. The source is MathWorks' "MAT-File Format". SciPy's
reader is not used: it believes what a damaged file says about its lengths, and may crash the interpreter.

Memory follows what a file can honestly hold: a cell takes 8 bytes of it at least, and what is compressed may
become MAX_RATIO times as large, and no larger than MAX_INFLATED.
"""

import zlib
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

HEADER = 128  # bytes
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
# Of text; MATLAB itself writes type 4, SciPy type 16.
ENCODINGS = {1: "latin-1", 2: "latin-1", 3: "utf-16", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, CHAR = 1, 2, 4
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
OPAQUE = 17
OTHERS = {3: "an object", 5: "a sparse matrix", 16: "a function", OPAQUE: "an object"}
COMPLEX = 8  # bit of the attributes
MAX_RATIO = 200  # names that count up shrink to a fiftieth
FREE = 1 << 24  # bytes that anything may become, whatever the ratio
MAX_INFLATED = 1 << 26  # bytes of all variables: 700,000 names; TinyFace's longest list has 153,428
MAX_DEPTH, MAX_DIMENSIONS = 32, 32


class Unread(NamedTuple):
    """Takes the place of an array that is of none of the kinds that are read."""

    kind: str


class Elements:
    """The elements in a piece of a file, one after another; a ValueError where one does not lie inside it."""

    def __init__(self, data: memoryview, order: str):
        self.data, self.order = data, order

    def next(self, *allowed: int) -> tuple[int, memoryview]:
        """Type and data of the next element, which has to be of one of these types, if any are given."""
        if len(self.data) < 8:
            raise ValueError(f"it ends where {'more' if allowed else 'an element'} should follow")
        kind, size = np.frombuffer(self.data, f"{self.order}u4", 2).tolist()
        if kind >> 16:
            kind, size, start, end = kind & 0xFFFF, kind >> 16, 4, 8
            if size > 4:
                raise ValueError(f"a small element has {size} bytes, allowed are 4")
        else:
            start, end = 8, 8 + size + (-size % 8 if kind != COMPRESSED else 0)
        if start + size > len(self.data):
            raise ValueError(
                f"an element of {size} bytes does not fit into the {len(self.data) - start} left"
            )
        if allowed and kind not in allowed:
            raise ValueError(f"an element of type {kind} stands where type {allowed[0]} should")
        found, self.data = self.data[start : start + size], self.data[end:]
        return kind, found

    def numbers(self, *allowed: int) -> np.ndarray:
        """The next element as a row of numbers."""
        kind, data = self.next(*(allowed or NUMBERS))
        if len(data) % np.dtype(NUMBERS[kind]).itemsize:
            raise ValueError(f"{len(data)} bytes are no whole number of values")
        return np.frombuffer(data, self.order + NUMBERS[kind])


def read_mat(path: Path) -> dict[str, np.ndarray | Unread]:
    """The variables of a file by name, with MATLAB's dimensions (Fortran's order).

    Numbers come as arrays of their class, a cell as an array of objects, a struct as an array of dicts. Text
    comes as an array of `str` with one dimension less: each row is one `str`.

    Raises:
        ValueError: another format, damage, or more than the file can honestly hold.
    """
    data = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:HEADER]))
    if order is None:
        raise ValueError("it does not begin as MATLAB's files since version 5 do")
    version = int(np.frombuffer(data, f"{order}u2", 1, 124)[0])
    if version != 0x0100:
        raise ValueError(f"its version is {version:#06x}, allowed is 0x0100")
    elements, room, variables = Elements(data[HEADER:], order), MAX_INFLATED, {}
    while len(elements.data):
        kind, content = elements.next(MATRIX, COMPRESSED)
        if kind == COMPRESSED:
            inflated = _inflate(content, room)
            room -= len(inflated)
            _, content = Elements(memoryview(inflated), order).next(MATRIX)
        name, value = _array(content, order, 0)
        if name in variables:
            raise ValueError(f"it holds two variables {name!r}")
        if name and not name.isidentifier():
            raise ValueError(f"it holds a variable called {name!r}")
        if name:  # what MATLAB stores beside functions and objects has none
            variables[name] = value
    return variables


def _inflate(data: memoryview, room: int) -> bytes:
    """What zlib compressed, its checksum compared."""
    limit = min(max(FREE, MAX_RATIO * len(data)), room)
    unpacker = zlib.decompressobj()
    try:
        inflated = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"a compressed variable is damaged ({error})") from error
    if len(inflated) > limit:
        raise ValueError(f"{len(data)} compressed bytes become more than {limit}")
    if not unpacker.eof:
        raise ValueError("a compressed variable is cut off")
    return inflated


def _array(data: memoryview, order: str, depth: int) -> tuple[str, np.ndarray | Unread]:
    """Name and value of the array in the data of an element of type 14."""
    if not len(data):  # how an empty cell is stored
        return "", EMPTY
    if depth > MAX_DEPTH:
        raise ValueError(f"its cells are nested more than {MAX_DEPTH} deep")
    elements = Elements(data, order)
    flags = elements.numbers(6)
    if len(flags) != 2:
        raise ValueError(f"an array has {len(flags)} flags, expected 2")
    kind, attributes = int(flags[0]) & 0xFF, int(flags[0]) >> 8 & 0xFF
    shape = () if kind == OPAQUE else tuple(elements.numbers(5, 6).tolist())
    if len(shape) > MAX_DIMENSIONS or any(not 0 <= size < 1 << 31 for size in shape):
        raise ValueError(f"an array has the dimensions {shape[:4]}")
    name = _text_of(elements.next(1, 2, 16)[1])
    if kind in OTHERS:
        return name, Unread(OTHERS[kind])
    if kind in CLASSES:
        if attributes & COMPLEX:
            return name, Unread("a complex matrix")
        return name, _numbers(elements.numbers(), CLASSES[kind], shape)
    readers = {CELL: _cells, STRUCT: _structs, CHAR: _characters}
    if kind not in readers:
        raise ValueError(f"an array is of class {kind}, which there is not")
    return name, readers[kind](elements, shape, depth)


def _text_of(data: memoryview | bytes) -> str:
    return bytes(data).partition(b"\0")[0].decode()


def _numbers(stored: np.ndarray, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in their class; MATLAB stores them in the smallest type that holds their values."""
    if len(stored) != prod(shape):
        raise ValueError(f"{len(stored)} numbers are stored for the dimensions {shape}")
    if not np.can_cast(stored.dtype, kind, "safe"):
        raise ValueError(f"numbers of type {kind} are stored as {stored.dtype}")
    return stored.astype(kind).reshape(shape, order="F")


def _cells(elements: Elements, shape: tuple[int, ...], depth: int) -> np.ndarray:
    count = prod(shape)
    if count > len(elements.data) // 8:
        raise ValueError(f"{len(elements.data)} bytes cannot hold {count} cells")
    cells = np.empty(count, object)
    for i in range(count):
        cells[i] = _array(elements.next(MATRIX)[1], elements.order, depth + 1)[1]
    return cells.reshape(shape, order="F")


def _structs(elements: Elements, shape: tuple[int, ...], depth: int) -> np.ndarray:
    width = elements.numbers(5, 6)
    names = bytes(elements.next(1, 2)[1])
    if len(width) != 1 or width[0] < 1 or len(names) % int(width[0]):
        raise ValueError("the names of a struct's fields have no common length")
    step = int(width[0])
    fields = [_text_of(names[i : i + step]) for i in range(0, len(names), step)]
    # A struct without fields takes no byte, so that a length alone would make any number of them.
    count = prod(shape) if fields else 0
    if count * len(fields) > len(elements.data) // 8:
        raise ValueError(f"{len(elements.data)} bytes cannot hold {count} structs of {len(fields)} fields")
    structs = np.empty(count, object)
    for i in range(count):
        structs[i] = {f: _array(elements.next(MATRIX)[1], elements.order, depth + 1)[1] for f in fields}
    return structs.reshape(shape if fields else (0,), order="F")


def _characters(elements: Elements, shape: tuple[int, ...], depth: int) -> np.ndarray:
    """Rows of text. The dimensions count characters, one that takes two units of UTF-16 twice."""
    kind, data = elements.next()
    if kind not in ENCODINGS:
        raise ValueError(f"text is stored as numbers of type {kind}")
    if not len(data):  # whatever the dimensions say
        return np.empty(0, str)
    ends = {"<": "-le", ">": "-be"}[elements.order] if kind in (3, 4, 17, 18) else ""
    text = str(data, ENCODINGS[kind] + ends)
    units, unit = np.frombuffer(text.encode("utf-32-le"), "<u4"), "utf-32-le"
    if len(units) != prod(shape):
        units, unit = np.frombuffer(text.encode("utf-16-le"), "<u2"), "utf-16-le"
    if len(units) != prod(shape) or not shape:
        raise ValueError(f"{len(text)} characters are stored for the dimensions {shape}")
    rows = np.ascontiguousarray(units.reshape(shape, order="F"))
    if unit == "utf-32-le":
        return rows.view(f"<U{shape[-1]}").reshape(shape[:-1])
    rows = rows.reshape(-1, shape[-1])
    return np.array([row.tobytes().decode(unit) for row in rows]).reshape(shape[:-1])


EMPTY = np.empty((0, 0))
