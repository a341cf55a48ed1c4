"""One clear error where a worker process of a DataLoader was killed."""

import signal
import sys
import threading
from collections.abc import Iterator

_fetching = False  # whether torch's code runs, not that of the training step


class WorkerKilled(BaseException):
    """A worker was killed. torch catches every Exception there, and then waits for locks that it may hold."""

    def __init__(self, error: Exception):
        self.error = error


def fetch(batches: Iterator):
    """The next batch; None at the end."""
    global _fetching
    _fetching = True
    try:
        return next(batches, None)
    finally:
        _fetching = False


def silence_lost_connections(kind, error, traceback) -> None:
    lost = issubclass(kind, EOFError | ConnectionError)  # then the training process is gone, and has said why
    if not lost:
        sys.__excepthook__(kind, error, traceback)


def killed_worker_error(error: Exception) -> Exception:
    """One line in place of what torch says of a dead worker; any other error as it is."""
    text = str(error).partition("\n")[0].rstrip(". ")
    if isinstance(error, RuntimeError) and not text.startswith("DataLoader worker"):
        return error
    if not isinstance(error, RuntimeError):  # it died while it handed a batch over
        text = "a DataLoader worker exited unexpectedly"
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, lambda *_: None)  # said once is enough, and nothing may interrupt it
    return ChildProcessError(f"{text}: perhaps out of memory, or of shared memory in /dev/shm")


def report_killed_workers() -> None:
    """Translates what torch's SIGCHLD handler raises too: wherever the training process is at that time."""
    handler = signal.getsignal(signal.SIGCHLD)
    in_main = threading.current_thread() is threading.main_thread()  # only there can a handler be set
    if not in_main or not callable(handler) or hasattr(handler, "translates"):
        return

    def translate(signum, frame):
        try:
            handler(signum, frame)
        except RuntimeError as error:
            killed = killed_worker_error(error)
            raise (WorkerKilled(killed) if _fetching else killed) from None

    translate.translates = True
    signal.signal(signal.SIGCHLD, translate)
