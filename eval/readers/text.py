"""Text files that people write by hand: UTF-8, with or without the mark that Windows editors put in front."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENCODING = "utf-8-sig"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how Excel's "Unicode text" begins


@contextmanager
def text_of(path: str | Path) -> Iterator[None]:
    """What is no UTF-8, or no csv, inside becomes a ValueError that names the file and says what to do."""
    try:
        yield
    except UnicodeDecodeError as fault:
        with open(path, "rb") as file:
            is_utf_16 = file.read(2) in UTF_16
        remedy = "; it is UTF-16: save it as UTF-8" if is_utf_16 else ""
        raise ValueError(
            f"{path} is no text in UTF-8 ({fault.reason} at byte {fault.start}){remedy}"
        ) from None
    except csv.Error as fault:
        raise ValueError(f"{path}: {fault}") from None


def read_text(path: str | Path) -> str:
    """The whole text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no UTF-8.
    """
    with text_of(path):
        return Path(path).read_text(encoding=ENCODING)
