"""TensorBoard's files, written as long as the disk has room."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from utils.log_files import worth_no_run


class TensorBoardLog:
    """Numbers and images for TensorBoard; after an error of the disk it writes nothing more.

    Args:
        first_step: steps done before. TensorBoard hides what was written about later ones: they come again.
    """

    def __init__(self, folder: Path, first_step: int):
        self.folder, self.writer = folder, None
        # Its thread prints a traceback for an error that the next call raises once more.
        threading.excepthook = partial(_without_tensorboard, threading.excepthook)
        with self._while_there_is_room():
            from torch.utils.tensorboard import SummaryWriter  # not at the top: the import takes seconds

            self.writer = SummaryWriter(str(folder), purge_step=first_step + 1, flush_secs=10)

    def add_scalars(self, step: int, scalars: dict[str, float], *, flush: bool = False) -> None:
        """Numbers by name. flush: write them out now, not within ten seconds."""
        if self.writer is not None:
            with self._while_there_is_room():
                for name, value in scalars.items():
                    self.writer.add_scalar(name, value, step)
                if flush:
                    self.writer.flush()

    def add_image(self, step: int, name: str, image: Tensor) -> None:
        """An image `(3, H, W)` in [0, 1]."""
        if self.writer is not None:
            with self._while_there_is_room():
                self.writer.add_image(name, image, step)

    def close(self) -> None:
        """Write out what is pending, and close; may be called twice."""
        if self.writer is not None:
            with self._while_there_is_room():
                self.writer.close()

    @contextmanager
    def _while_there_is_room(self) -> Iterator[None]:
        with worth_no_run(self.folder):
            try:
                yield
            except OSError:
                self.writer = None
                raise


def _without_tensorboard(otherwise, args: threading.ExceptHookArgs) -> None:
    if not (issubclass(args.exc_type, OSError) and "tensorboard" in type(args.thread).__module__):
        otherwise(args)
