"""One clear error where a worker process of a DataLoader was killed, by a machine without memory for example.

torch tells of a killed worker by a RuntimeError that reaches the training process at one of three places:

1. In the training step. torch's handler of SIGCHLD, the signal that a child process has ended, raises it at
   whatever line the main thread is.
2. In the loader, while it waits for a batch: the same handler. The loader catches every Exception there and
   ends its workers, politely: it waits for locks. A worker that was killed while it held one never gives it
   back, so this may wait for ever.
3. In the loader, without the signal: the loader finds a dead worker, or the connection to it is lost.

All three become `WorkerKilled`. It derives from BaseException, so that no code on its way catches it, the
loader's above all. `utils.command_line.run_script` prints it as one line and ends the process.
"""

import os
import signal
import sys
import threading
import traceback
from multiprocessing.queues import Queue


class WorkerKilled(BaseException):
    """A worker process was killed; one line for the user."""


class Translator:
    """The SIGCHLD handler: calls torch's, and raises what that raises as WorkerKilled."""

    def __init__(self, torch_handler):
        self.torch_handler = torch_handler

    def __call__(self, signum, frame) -> None:
        try:
            self.torch_handler(signum, frame)
        except RuntimeError as error:
            raise translated(error) from None


def install_translator() -> None:
    """To be called when the workers run, as torch sets its handler when it starts them."""
    handler = signal.getsignal(signal.SIGCHLD)
    in_main = threading.current_thread() is threading.main_thread()  # only there can a handler be set
    if in_main and callable(handler) and not isinstance(handler, Translator):
        signal.signal(signal.SIGCHLD, Translator(handler))


def translated(error: Exception) -> BaseException:
    """WorkerKilled in place of an error that tells of a dead worker; any other error as it is."""
    text = str(error).partition("\n")[0].rstrip(". ")
    if isinstance(error, RuntimeError) and not text.startswith("DataLoader worker"):
        return error
    if isinstance(error, EOFError | ConnectionError):  # it was killed while it handed a batch over
        text = "a DataLoader worker exited unexpectedly"
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, lambda *_: None)  # more killed workers are no further error
    return WorkerKilled(f"{text}: perhaps out of memory")


def prepare_worker() -> None:
    """In a worker, before its first batch: no batch is lost in silence, and no second error hides the first.

    The thread that hands batches over drops one that it cannot hand over, and goes on: the training process
    would wait for that batch for ever.
    """
    sys.excepthook = _silence_lost_connection
    Queue._on_queue_feeder_error = staticmethod(_end_worker)


def _silence_lost_connection(kind, error, trace) -> None:
    """Where the training process is gone, that process has said why."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _end_worker(error: Exception, batch) -> None:
    """What the thread that hands batches over does with an error."""
    if not isinstance(error, EOFError | ConnectionError):
        traceback.print_exception(error)
    os._exit(1)
