"""Lists of image names in MATLAB files, as TinyFace and QMUL-SurvFace publish them.

    gallery_set  (N, 1) cell of file names        gallery_ids  (N, 1) numbers, row by row the identity
    positive_pairs_names  (P, 2) cell of file names

An (N, 2) cell of [name, id] rows, without the second variable, is read as well. Every error names the file,
and the row where there is one; rows count from 1, as MATLAB's do.
"""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from utils.errors import nearest


def read_variables(path: str | Path) -> dict[str, np.ndarray]:
    """The variables of a MATLAB file of version 4 to 7.2, by name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, or a damaged file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no list {path}")
    try:
        content = loadmat(path)
    except NotImplementedError:  # SciPy's word for HDF5
        raise ValueError(f"{path} is a MATLAB 7.3 file: save it again with `save -v7` in MATLAB") from None
    except Exception as fault:  # a damaged file can raise anything
        raise ValueError(f"{path} is no MATLAB file: {fault or type(fault).__name__}") from fault
    return {name: value for name, value in content.items() if not name.startswith("__")}


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
        names, ids = names.reshape(-1), variables[ids_key].reshape(-1)
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
    if variables[key].size == 0:
        raise ValueError(f"{path}: {key!r} is empty")
    return variables[key]


def shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape))


def content_of(entry: object) -> object:
    """What a cell holds: SciPy wraps a text or a number into arrays of one element, once a nesting."""
    while isinstance(entry, np.ndarray) and entry.size == 1:
        entry = entry.item()
    return entry


def name_in(entry: object, place: str) -> str:
    """The file name in a cell, without the folder or blanks that may surround it."""
    name = content_of(entry)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{place}: {name!r} is no file name")
    return Path(name.strip()).name


def number_in(entry: object, place: str) -> int:
    """The identity in a cell: a whole number, or its digits."""
    number = content_of(entry)
    try:
        if int(number) == float(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{place}: {number!r} is no identity, expected a whole number")
