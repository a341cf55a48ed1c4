"""MATLAB files are read as SciPy reads them, in both byte orders, and no damage costs more than an error."""

import random
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import loadmat, savemat

from eval.readers.mat_file import read_mat
from helpers.tinysurv_trees import cells

OF_MATLAB = Path(scipy.io.matlab.__file__).parent / "tests" / "data"  # files of many versions of MATLAB
INTS, UINTS = (f"i{n}" for n in (1, 2, 4, 8)), (f"u{n}" for n in (1, 2, 4, 8))
NUMBERS = st.sampled_from([*INTS, *UINTS, "f4", "f8", "?"]).flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=2, max_dims=3, max_side=3))
)
# Up to the last character of one unit in UTF-16.
TEXT = st.text(st.sampled_from("a_1.é面\uffff"), min_size=1, max_size=6)


def plain(value):
    """What is read, by either reader, as lists that can be compared."""
    if isinstance(value, np.void):  # SciPy's struct
        return {name: plain(value[name]) for name in value.dtype.names}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.names or value.dtype == object:
        return [value.shape, [plain(item) for item in value.ravel()]]
    numbers = [number if number == number else "nan" for number in value.ravel().tolist()]
    return [value.shape, numbers] if numbers else "empty"


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    padding = bytes(-len(data) % 8) if kind != 15 else b""
    return struct.pack(f"{order}II", kind, len(data)) + data + padding


def array(kind: int, shape: tuple, *content: bytes, name: bytes = b"", order: str = "<") -> bytes:
    flags = element(6, struct.pack(f"{order}II", kind, 0), order)
    shape = element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
    return element(14, flags + shape + element(1, name, order) + b"".join(content), order)


def write(path: Path, *elements: bytes, order: str = "<") -> Path:
    end = struct.pack(f"{order}H", 0x0100) + (b"IM" if order == "<" else b"MI")
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + end + b"".join(elements))
    return path


@settings(max_examples=40)
@given(
    content=st.recursive(NUMBERS | TEXT, lambda deeper: st.lists(deeper, min_size=1, max_size=3).map(cells))
)
def test_numbers_text_and_nested_cells_are_what_scipy_reads(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("mat", numbered=True)
    for compressed in (False, True):
        savemat(folder / "a.mat", {"content": content, "again": content}, do_compression=compressed)
        expected, found = loadmat(folder / "a.mat"), read_mat(folder / "a.mat")
        assert list(found) == ["content", "again"]
        assert {name: plain(value) for name, value in found.items()} == {
            name: plain(expected[name]) for name in found
        }


@pytest.mark.skipif(not OF_MATLAB.is_dir(), reason="SciPy was installed without its tests")
def test_files_that_matlab_wrote_are_what_scipy_reads():
    equal, unread = [], []
    for path in sorted(OF_MATLAB.glob("*.mat")):
        if "duplicate" in path.name or "empty_struct" in path.name:  # a field twice, or none: no such list
            continue
        try:
            found = read_mat(path)
            expected = {name: value for name, value in loadmat(path).items() if name in found}
        except Exception:  # files that are damaged on purpose, and such as neither reader takes
            continue
        if "Unread" in repr(found):
            unread.append(path.name)
        else:
            assert {name: plain(value) for name, value in found.items()} == {
                name: plain(value) for name, value in expected.items()
            }, path.name
            equal.append(path.name)
    assert len(equal) >= 50, equal
    assert {"testcell_6.1_SOL2.mat", "teststringarray_6.1_SOL2.mat"} <= set(equal)  # big endian
    assert all(word in " ".join(unread) for word in ("sparse", "object", "func", "complex"))


def test_a_file_of_the_other_byte_order_is_read(tmp_path):
    for order in "<>":
        code = "utf-16-le" if order == "<" else "utf-16-be"
        texts = [
            array(4, (1, 3), element(4, text.encode(code), order), order=order) for text in ("abc", "é面.")
        ]
        ids = element(13, struct.pack(f"{order}2Q", 7, 1 << 62), order)
        path = write(
            tmp_path / "a.mat",
            array(1, (2, 1), *texts, name=b"names", order=order),
            array(15, (2, 1), ids, name=b"ids", order=order),
            order=order,
        )
        found = read_mat(path)
        assert plain(found["names"]) == [(2, 1), [[(1,), ["abc"]], [(1,), ["é面."]]]]
        assert plain(found["ids"]) == [(2, 1), [7, 1 << 62]] == plain(loadmat(path)["ids"])


def test_a_character_beyond_sixteen_bits_counts_as_two_units(tmp_path):
    text = element(4, "a😀".encode("utf-16-le"))
    assert read_mat(write(tmp_path / "a.mat", array(4, (1, 3), text, name=b"x")))["x"].tolist() == ["a😀"]


def damage(data: bytes, seed: int) -> bytes:
    chance, changed = random.Random(seed), bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        changed[chance.randrange(len(data))] = chance.choice(
            (0, 1, 2, 5, 9, 14, 15, 127, 255, chance.randrange(256))
        )
    return bytes(changed[: chance.randrange(len(data))] if seed % 8 == 0 else changed)


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_anywhere_is_an_error_or_another_value(tmp_path, compressed):
    names = cells([("1_1.jpg", 1), ("2_1.jpg", 2)])
    savemat(tmp_path / "a.mat", {"set": names, "ids": np.arange(5.0)}, do_compression=compressed)
    data, told, path = (tmp_path / "a.mat").read_bytes(), 0, tmp_path / "b.mat"
    for seed in range(600):
        path.write_bytes(damage(data, seed))
        try:
            read_mat(path)
        except ValueError:
            told += 1
    assert told > 100


SMALL = {
    "cells beyond the file": array(1, (1 << 30, 1), name=b"x"),
    "cells whose product overflows": array(1, (1 << 30, 1 << 30, 1 << 30), name=b"x"),
    "a negative size": array(6, (-1, 1), element(9, bytes(8)), name=b"x"),
    "numbers beyond the file": array(6, (1 << 30, 1), element(9, bytes(8)), name=b"x"),
    "too many dimensions": array(6, (1,) * 40, element(9, bytes(8)), name=b"x"),
    "a small element of 200 bytes": struct.pack("<I", 200 << 16 | 9) + bytes(200),
    "structs without end": array(
        2, (1 << 30, 1), element(5, struct.pack("<i", 8)), element(1, b"a" * 8), name=b"x"
    ),
    "a number stored as a larger one": array(8, (1, 1), element(9, bytes(8)), name=b"x"),
    "half a number": array(6, (1, 1), element(9, bytes(4)), name=b"x"),
    "a class that is none": array(99, (1, 1), element(9, bytes(8)), name=b"x"),
    "a cut variable": element(15, zlib.compress(array(6, (1, 1), element(9, bytes(8)), name=b"x"))[:-6]),
    "a bomb": element(15, zlib.compress(array(6, (1 << 25, 1), element(2, bytes(1 << 25)), name=b"x"), 9)),
    "one name twice": array(6, (1, 1), element(9, bytes(8)), name=b"x") * 2,
    "no text": array(4, (1, 2), element(4, b"\0\xd8\0\xd8"), name=b"x"),
    "cells in cells": None,
}
deep = array(6, (1, 1), element(9, bytes(8)))
for _ in range(500):
    deep = array(1, (1, 1), deep)
SMALL["cells in cells"] = array(1, (1, 1), deep, name=b"x")


@pytest.mark.parametrize("content", SMALL.values(), ids=SMALL)
def test_what_a_file_cannot_hold_is_refused_at_once(tmp_path, content):
    path = write(tmp_path / "a.mat", content)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(ValueError, match=r"\w") as caught:
            read_mat(path)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20  # bytes
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 5
    assert "\n" not in str(caught.value)


def test_a_dimension_without_entries_takes_no_memory(tmp_path):
    text, numbers = array(4, (1 << 30, 0), element(4, b""), name=b"t"), element(9, b"")
    found = read_mat(write(tmp_path / "a.mat", text, array(6, (0, 1 << 30), numbers, name=b"n")))
    assert [value.size for value in found.values()] == [0, 0]
