"""Text metadata, blank- or comma-separated, as columns; errors name the file and the line of a malformed row.

A table of integers alone (the 16 million pairs of IJB-C) is parsed by NumPy, in seconds. If NumPy refuses it,
it is read again line by line, which finds the faulty line.
"""

import csv
import math
import warnings
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.readers.text import ENCODING, text_of

EXPECTED = {int: "an integer", float: "a finite number", str: "a text"}
STORED = {int: "q", float: "d"}  # 8 bytes a number, where Python's take 32
TAIL = 4096  # bytes of empty lines below the last row that are found without reading line by line
SHOWN = 60  # characters of a faulty line that an error repeats

Column = np.ndarray | list[str]


class Layout(NamedTuple):
    """How a table is written, and what is wanted of it: see `read_rows`."""

    columns: Mapping[str, type]
    header: bool
    delimiter: str | None
    extra: bool
    distinct: bool


def read_rows(
    path: str | Path,
    columns: Mapping[str, type],
    *,
    header: bool = False,
    delimiter: str | None = None,
    extra: bool = False,
    distinct: bool = False,
) -> dict[str, Column]:
    """Read a table whose lines end in LF or CRLF.

    Args:
        columns: name -> int, float or str, in the order of the file.
        header: the first line names the columns, in whatever words, and is skipped.
        delimiter: such as ",", and then fields may stand in quotation marks; None: any number of blanks.
        extra: further columns may follow, as many in every row as in the first line; they are skipped.
        distinct: of rows that have the same text in all `columns` only the first, several times faster where
            they are many; a further column "line" says where it is.
    Returns:
        For each column `(N,)` int64 or float64, or a list of N texts, N > 0; row i is of line i + 1, below a
        header i + 2.
    Raises:
        FileNotFoundError: no such file.
        ValueError: in one line, with file and line: an empty line above the last row, a wrong number of
            columns, a field that is not of its type, data where the header should be; or no rows at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if set(columns.values()) == {int} and not (header or extra or distinct):
        table = integers(path, len(columns), delimiter)
        if table is not None:
            return dict(zip(columns, table))
    with text_of(path), open(path, encoding=ENCODING, newline="" if delimiter else None) as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True) if delimiter else map(str.split, file)
        return parse(path, lines, Layout(columns, header, delimiter, extra, distinct))


def integers(path: Path, num_columns: int, delimiter: str | None) -> np.ndarray | None:
    """A faultless table of integers, `(num_columns, N)` int64; None if there is any doubt."""
    num_lines, end = 0, b""
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            num_lines, end = num_lines + block.count(b"\n"), (end + block)[-TAIL:]
    blank = end[len(end.rstrip()) :]  # line breaks of the last row and of empty lines below it
    num_lines -= blank.count(b"\n") - 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no rows at all
            table = np.loadtxt(path, np.int64, comments=None, delimiter=delimiter, encoding=ENCODING, ndmin=2)
    except (ValueError, Warning):
        return None
    # NumPy skips empty lines and says nothing: the number of rows shows it.
    return np.ascontiguousarray(table.T) if table.shape == (num_lines, num_columns) else None


def parse(path: Path, lines: Iterable[list[str]], layout: Layout) -> dict[str, Column]:
    """Lines, split into fields -> columns.

    Raises:
        ValueError: see `read_rows`.
    """
    columns, distinct = layout.columns, layout.distinct
    kept = {name: [] if kind is str else array(STORED[kind]) for name, kind in columns.items()}
    plan = [(name, kind, kept[name].append) for name, kind in columns.items()]
    width, number, seen, places = len(columns), 0, set(), array("q")
    try:
        for number, fields in enumerate(without_blank_end(lines), start=1):
            if number == 1 and layout.extra:
                width = max(width, len(fields))
            if len(fields) != width:
                raise ValueError(wrong_width(fields, width, layout))
            if number == 1 and layout.header:
                check_header(fields, columns)
                continue
            if distinct:
                if (row := tuple(fields[: len(plan)])) in seen:
                    continue
                seen.add(row)
                places.append(number)
            for field, (name, kind, keep) in zip(fields, plan):
                try:
                    keep(convert(field, kind))
                except (ValueError, OverflowError):
                    raise ValueError(f"{name} is {field[:SHOWN]!r}, expected {EXPECTED[kind]}") from None
    except csv.Error as fault:
        raise ValueError(f"{path} line {number + 1}: {fault}") from None
    except UnicodeDecodeError:
        raise  # a ValueError, but not about a line
    except ValueError as fault:
        raise ValueError(f"{path} line {number}: {fault}") from None
    if number <= layout.header:
        raise ValueError(f"{path} holds no rows")
    if distinct:
        kept["line"] = places
    return {
        name: column if isinstance(column, list) else np.frombuffer(column, dtype=column.typecode)
        for name, column in kept.items()
    }


def without_blank_end(lines: Iterable[list[str]]) -> Iterator[list[str]]:
    """The lines, but for empty ones below the last row, which editors leave there."""
    blank = 0
    for fields in lines:
        if not any(map(str.strip, fields)) and len(fields) < 2:
            blank += 1
            continue
        yield from [[]] * blank
        blank = 0
        yield fields


def convert(field: str, kind: type) -> int | float | str:
    """A field as its type.

    Raises:
        ValueError: it is not of that type, or an empty text.
    """
    if kind is str:
        field = field.strip()
        if not field:
            raise ValueError
        return field
    if "_" in field:  # which Python reads as a separator of thousands: 12_3 is the name of a face
        raise ValueError
    value = kind(field)
    if not math.isfinite(value):
        raise ValueError
    return value


def check_header(fields: list[str], columns: Mapping[str, type]) -> None:
    """Require that a first line is not a row: that no column of numbers has a number there.

    Raises:
        ValueError: one has.
    """
    for field, (name, kind) in zip(fields, columns.items()):
        if kind is not str and field.strip().lstrip("+-").replace(".", "", 1).isdecimal():
            raise ValueError(f"expected a header, got {field!r} for {name}")


def wrong_width(fields: list[str], width: int, layout: Layout) -> str:
    """What is wrong with a line that has another number of fields than `width`."""
    if not fields:
        return "it is empty"
    names = ", ".join(layout.columns) + (", …" if width > len(layout.columns) else "")
    line = (layout.delimiter or " ").join(fields)
    return f"{len(fields)} columns, expected {width} ({names}): {line[:SHOWN]!r}"
