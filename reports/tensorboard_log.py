"""TensorBoard's files, written as long as the disk has room."""

import threading
from functools import partial
from pathlib import Path

from torch import Tensor

from utils.log_files import worth_no_run


class TensorBoardLog:
    """Numbers and images for TensorBoard. After an error of the disk its writer writes nothing more.

    Args:
        first_step: steps done before. TensorBoard hides what was written about later ones: they come again.
    """

    def __init__(self, folder: Path, first_step: int):
        self.folder, self.writer = folder, None
        # TensorBoard writes in a thread, which prints a traceback of an error that every next call raises.
        threading.excepthook = partial(_without_tensorboard, threading.excepthook)
        with worth_no_run(folder):
            from torch.utils.tensorboard import SummaryWriter  # not at the top: the import takes seconds

            self.writer = SummaryWriter(str(folder), purge_step=first_step + 1, flush_secs=10)

    def add_scalars(self, step: int, scalars: dict[str, float], *, flush: bool = False) -> None:
        """Numbers by name. flush: write them out now, not within ten seconds."""
        with worth_no_run(self.folder):
            for name, value in scalars.items() if self.writer else ():
                self.writer.add_scalar(name, value, step)
            if self.writer and flush:
                self.writer.flush()

    def add_image(self, step: int, name: str, image: Tensor) -> None:
        """An image `(3, H, W)` in [0, 1]."""
        with worth_no_run(self.folder):
            if self.writer:
                self.writer.add_image(name, image, step)

    def close(self) -> None:
        """Write out what is pending, and close; may be called twice."""
        with worth_no_run(self.folder):
            if self.writer:
                self.writer.close()


def _without_tensorboard(otherwise, args: threading.ExceptHookArgs) -> None:
    if not (issubclass(args.exc_type, OSError) and "tensorboard" in type(args.thread).__module__):
        otherwise(args)
