"""Files of a log, which a full disk costs lines but never the run: it is told once, and training goes on."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import one_line

LOGGER_NAME = "lqface"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, the limit of a file
_told: set[Path] = set()  # folders of which it is known that not everything can be written there


@contextmanager
def worth_no_run(path: Path) -> Iterator[None]:
    """An OSError inside, where `path` is written, ends what is inside and nothing else.

    The first one in a folder is logged; the others would be the same.
    """
    try:
        yield
    except OSError as error:
        if path.parent not in _told:
            _told.add(path.parent)  # first: the warning goes to a file in this folder too
            logging.getLogger(LOGGER_NAME).warning(
                "cannot write %s: %s. Training goes on; logs and pictures will have gaps",
                path,
                error.strerror or one_line(error),
            )


class LineFile:
    """A text file that is continued line by line; every line goes to the operating system at once.

    A line that cannot be written is left out as a whole, so that what is there can always be read. (Python's
    own files would keep it in a buffer, and fail again on closing.)
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, line: str) -> None:
        """Append `line` and a line break."""
        data = f"{line}\n".encode(errors="backslashreplace")
        with worth_no_run(self.path):
            size = os.fstat(self.descriptor).st_size
            if os.write(self.descriptor, data) < len(data):  # the disk became full within the line
                os.ftruncate(self.descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """May be called twice."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class LineHandler(logging.Handler):
    """Writes log records to a LineFile."""

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.file = LineFile(path)

    def emit(self, record: logging.LogRecord) -> None:
        self.file.write(self.format(record))

    def close(self) -> None:
        """The file too."""
        self.file.close()
        super().close()
