"""How every script meets the command line: one clear line for a user's mistake, a traceback for ours."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from utils.errors import one_line
from utils.killed_workers import WorkerKilled

GRACE_S = 5.0  # for a program to unwind after Ctrl-C
_printed = threading.Event()  # whether the message that ends this process is out


def run_script(main: Callable[[], object]) -> NoReturn:
    """Calls `main()` and turns the user's mistakes into one line `error: ...` on stderr and exit code 1.

    ValueError, OSError (a missing file, a full disk) and WorkerKilled (no memory left) count as the user's;
    LQFACE_TRACEBACK=1 shows where they came from. Any other exception is a fault of this project and keeps
    its traceback. Ctrl-C: code 130. Never returns: the process ends here, see `_leave`.
    """
    signal.signal(signal.SIGINT, _interrupt)
    try:
        main()
        sys.stdout.flush()
        _leave("", code=0)
    except KeyboardInterrupt:
        _leave(_stopped(), code=130)
    except (ValueError, OSError, WorkerKilled) as error:
        wanted = os.environ.get("LQFACE_TRACEBACK", "0") not in ("", "0")
        message = traceback.format_exc() if wanted else f"error: {one_line(error)}"
        _wait_for_torchrun(seconds=0)
        _leave(message, code=1)
    except Exception:
        message = traceback.format_exc()
        # Where one rank fails, the collectives of the others fail too: their tracebacks would hide the first.
        _wait_for_torchrun(seconds=2)
        _leave(message, code=1)


def _stopped() -> str:
    return "stopped by Ctrl-C" if _rank() == 0 else ""


def _interrupt(signum, frame) -> None:
    """Ctrl-C unwinds the program, and ends it after GRACE_S all the same.

    Unwinding may not reach the end: Python drops exceptions in destructors, and the main thread may hang.
    """
    last_resort = threading.Timer(GRACE_S, _leave_at_once, [_stopped(), 130])
    last_resort.daemon = True
    last_resort.start()
    raise KeyboardInterrupt


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _has_peers() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _wait_for_torchrun(seconds: float) -> None:
    """Let rank 0 print first: torchrun ends the others when one exits, so that one error is printed once."""
    if _has_peers():
        time.sleep(seconds + (3.0 if _rank() > 0 else 0.0))


def _leave(message: str, code: int) -> NoReturn:
    """End the process without Python's own shutdown, in which torch's threads are not safe.

    A thread of gloo that drops the last reference to a tensor during the shutdown aborts the process
    (https://github.com/pytorch/pytorch/issues/190489). After a failure, destructors would also wait for peers
    that may be gone, and for locks of killed workers.
    """
    with contextlib.suppress(OSError):  # where stdout cannot be written, `message` says so
        sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # workers are killed below, which is no error
    _leave_at_once(message, code)


def _leave_at_once(message: str, code: int) -> NoReturn:
    """Without a flush, as the main thread may be stuck in it, where nobody reads the output for example."""
    _print_once(message)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def _print_once(message: str) -> None:
    if message and not _printed.is_set():
        _printed.set()
        print(message, file=sys.stderr, flush=True)
