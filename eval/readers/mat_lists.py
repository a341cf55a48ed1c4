"""Lists of image names in MATLAB files, as TinyFace and QMUL-SurvFace publish them.

    gallery_set  (N, 1) cell of file names        gallery_ids  (N, 1) numbers, row by row the identity
    positive_pairs_names  (P, 2) cell of file names

An (N, 2) cell of [name, id] rows, without the second variable, is read as well. Every error names the file,
and the row where there is one; rows count from 1, as MATLAB's do.
"""

import re
from pathlib import Path

import numpy as np

from eval.readers.mat_file import Unread, read_mat
from utils.errors import nearest


def read_variables(path: str | Path) -> dict[str, np.ndarray | Unread]:
    """The variables of a MATLAB file of version 5 to 7.2, by name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, or a damaged file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no list {path}")
    with open(path, "rb") as file:
        start = file.read(10)
    if start == b"MATLAB 7.3" or start[1:4] == b"HDF":
        raise ValueError(f"{path} is a MATLAB 7.3 file: save it again with `save -v7` in MATLAB")
    try:
        return read_mat(path)
    except ValueError as fault:
        raise ValueError(f"{path} is no MATLAB file: {fault}") from fault


def read_identities(path: str | Path, names_key: str, ids_key: str) -> tuple[list[str], np.ndarray]:
    """Names of images, and the identity that the list gives each.

    Args:
        names_key: variable with the names, or with [name, id] rows where there is no `ids_key`.
        ids_key: variable with the identities.
    Returns:
        N file names, and `(N,)` int64.
    Raises:
        FileNotFoundError, ValueError: see `read_variables`; a missing variable, another shape, an entry
            that is no name or no whole number.
    """
    variables = read_variables(path)
    names = variable(variables, names_key, path)
    if ids_key in variables:
        names, ids = names.reshape(-1), variable(variables, ids_key, path).reshape(-1)
        if len(names) != len(ids):
            raise ValueError(f"{path}: {len(names)} names in {names_key!r}, {len(ids)} ids in {ids_key!r}")
    elif names.ndim == 2 and names.shape[1] == 2:
        names, ids = names.T
    else:
        raise ValueError(
            f"{path}: {names_key!r} is {shape(names)} and there is no {ids_key!r}: "
            f"expected N names and N ids, or N rows [name, id]; it holds {', '.join(variables)}"
        )
    rows = range(1, len(names) + 1)
    return (
        [name_in(entry, f"{path} row {row}") for row, entry in zip(rows, names)],
        np.array([number_in(entry, f"{path} row {row}") for row, entry in zip(rows, ids)], dtype=np.int64),
    )


def read_name_pairs(path: str | Path, key: str) -> list[tuple[str, str]]:
    """Pairs of file names.

    Raises:
        FileNotFoundError, ValueError: see `read_variables`; a missing variable, another shape, no name.
    """
    pairs = variable(read_variables(path), key, path)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"{path}: {key!r} is {shape(pairs)}, expected P x 2 file names")
    return [
        (name_in(first, f"{path} row {row}"), name_in(second, f"{path} row {row}"))
        for row, (first, second) in enumerate(pairs, start=1)
    ]


def variable(variables: dict[str, np.ndarray], key: str, path: str | Path) -> np.ndarray:
    """The variable of that name, which has entries; a ValueError says which names there are."""
    if key not in variables:
        there = ", ".join(variables) or "nothing"
        raise ValueError(f"{path}: no variable {key!r}{nearest(key, variables)} (it holds {there})")
    value = variables[key]
    if isinstance(value, Unread):
        raise ValueError(f"{path}: {key!r} is {value.kind}, expected numbers, text or a cell")
    if value.size == 0:
        raise ValueError(f"{path}: {key!r} is empty")
    return value


def shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape))


def content_of(entry: object) -> object:
    """What a cell holds: a text or a number is an array of one element, and is so again in each nesting."""
    while isinstance(entry, np.ndarray | np.generic) and entry.size == 1:
        entry = entry.item()
    return entry


def name_in(entry: object, place: str) -> str:
    """The file name in a cell, without the folder or blanks that may surround it."""
    name = content_of(entry)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{place}: {name!r} is no file name")
    return Path(name.strip()).name


def number_in(entry: object, place: str) -> int:
    """The identity in a cell: a whole number of 64 bits with sign, or its digits."""
    number = content_of(entry)
    is_digits = isinstance(number, str) and re.fullmatch(r"\s*-?[0-9]{1,19}\s*", number)
    if is_digits or isinstance(number, int) or (isinstance(number, float) and number.is_integer()):
        whole = int(number)
        if -(1 << 63) <= whole < 1 << 63:
            return whole
    raise ValueError(f"{place}: {number!r} is no identity, expected a whole number of 64 bits with sign")
