"""Errors that list names: the message has their number and the first few, the exception has all of them.

A data set that was unpacked only in part lacks thousands of images: more than a message can show.
`names_in_file` writes them to a file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.files import whole_file

NUM_SHOWN = 5  # names that a message spells out


def first_few(names: Sequence[object]) -> str:
    """Such as "5,000 (a, b, c, d, e, …)": the number of names and the first NUM_SHOWN."""
    shown = ", ".join(map(str, names[:NUM_SHOWN])) + (", …" if len(names) > NUM_SHOWN else "")
    return f"{len(names):,} ({shown})"


class ListedError(ValueError):
    """Something is wrong with each of these names; the message is "`before` 9 (a, b, c, d, e, …)`after`".

    Attributes:
        names: all of them.
        file: where all of them are written, once they are; the message says so then.
    """

    def __init__(self, before: str, names: Sequence[object], after: str = ""):
        super().__init__(f"{before} {first_few(names)}{after}")
        self.names = names
        self.file: Path | None = None

    def __str__(self) -> str:
        return super().__str__() + (f"; all of them: {self.file}" if self.file else "")


class MissingFilesError(ListedError, FileNotFoundError):
    """These files are not there."""


@contextmanager
def names_in_file(path: Path) -> Iterator[None]:
    """If a `ListedError` has more names than its message shows, write all to a file, which it then names.

    Without an error, the file of an earlier one is removed.
    """
    try:
        yield
    except ListedError as fault:
        if len(fault.names) > NUM_SHOWN:
            with suppress(OSError):  # a file that cannot be written must not hide the error itself
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(path) as partial:
                    text = "".join(f"{name}\n" for name in fault.names)
                    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
                fault.file = path
        raise
    with suppress(OSError):
        path.unlink(missing_ok=True)
