"""The message with which a process ends: printed once, and left with everyone who may be asked why it ended.

Beside stderr it goes to those who have subscribed (the log file of the run, the other ranks), and to the file
that torchrun names to each of its processes: so torchrun's own report, forty lines long, repeats it.
"""

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

LISTENER_S = 2.0  # for a listener, which may wait for a disk or a network that no longer answers

_listeners: list[Callable[[str, bool], None]] = []
_leaving = threading.Lock()  # taken for good by the thread whose message counts
_left = threading.Event()  # whether the message is with the listeners
_printed = threading.Event()  # whether it is on stderr


def subscribe(listener: Callable[[str, bool], None]) -> None:
    """Call `listener(message, ranks_know)` when this process ends after a failure or a signal."""
    if listener not in _listeners:
        _listeners.append(listener)


def leave_with_others(message: str, *, ranks_know: bool = False) -> None:
    """Give the message to all but stderr; the first message of a process counts.

    Args:
        ranks_know: every rank ends with this very message, so that none has to be told.
    """
    if not message:
        return
    if not _leaving.acquire(blocking=False):
        _left.wait((2 + len(_listeners)) * LISTENER_S)  # another thread is at it: do not end the process yet
        return
    for listener in [_write_for_torchrun, *_listeners]:
        thread = threading.Thread(target=_ignoring_errors, args=(listener, message, ranks_know), daemon=True)
        thread.start()
        thread.join(LISTENER_S)
    _left.set()


def end_process(message: str, code: int) -> NoReturn:
    """Print the message, the first one of this process, and end it at once, with its workers.

    No flush of stdout: the main thread may be stuck in it, where nobody reads the output for example.
    """
    if message and not _printed.is_set():
        _printed.set()
        print(message, file=sys.stderr, flush=True)
    leave_with_others(message)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def _ignoring_errors(listener: Callable[[str, bool], None], *args) -> None:
    with suppress(Exception):  # the process ends; what it ends with is said on stderr
        listener(*args)


def _write_for_torchrun(message: str, ranks_know: bool) -> None:
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        with open(path, "w") as file:
            json.dump({"message": {"message": message, "extraInfo": extra}}, file)
