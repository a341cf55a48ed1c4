"""How every script meets the command line: one clear line for a user's mistake, a traceback for ours."""

import contextlib
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from utils.errors import GroupError, one_line
from utils.killed_workers import WorkerKilled
from utils.last_words import end_process, leave_with_others
from utils.progress import here

GRACE_S = 5.0  # for a program to unwind after Ctrl-C

# Turn an error into the line that ends the script, or None; `ranks.watchdog` knows of ranks that are gone.
explainers: list[Callable[[Exception], "EndOfScript | None"]] = []


class EndOfScript(Exception):
    """Ends the script with this message, unless it is "", and with an exit code of its own.

    Args:
        elsewhere: what the log file, torchrun and the other ranks are told; the message if left out.
        ranks_know: every rank ends so, and the others need not be told.
    """

    def __init__(self, message: str, code: int, *, elsewhere: str = "", ranks_know: bool = False):
        super().__init__(message)
        self.code, self.elsewhere, self.ranks_know = code, elsewhere or message, ranks_know


def run_script(main: Callable[[], object]) -> NoReturn:
    """Calls `main()` and turns the user's mistakes into one line `error: ...` on stderr and exit code 1.

    ValueError, OSError (a missing file, a full disk) and WorkerKilled (no memory left) count as the user's;
    LQFACE_TRACEBACK=1 shows where they came from. A GroupError is printed by rank 0 alone. Any other
    exception is a fault of this project and keeps its traceback, unless one of `explainers` knows better.
    Ctrl-C: code 130. Never returns: the process ends here, see `_leave`.
    """
    signal.signal(signal.SIGINT, _interrupt)
    for stream in (sys.stdout, sys.stderr):  # an ASCII terminal has no ±, and a file's name may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # torch.distributed.launch says it a second time, beside the environment.
    sys.argv[1:] = [a for a in sys.argv[1:] if not a.startswith(("--local-rank=", "--local_rank="))]
    try:
        main()
        sys.stdout.flush()
        _leave("", code=0)
    except KeyboardInterrupt:
        _leave(interrupted(), code=130)
    except EndOfScript as end:
        _leave_after(end)
    except (ValueError, OSError, WorkerKilled) as error:
        wanted = os.environ.get("LQFACE_TRACEBACK", "0") not in ("", "0")
        message = traceback.format_exc() if wanted else f"error: {one_line(error)}"
        of_all = isinstance(error, GroupError)
        leave_with_others(message, ranks_know=of_all)
        _wait_for_torchrun(seconds=0)
        _leave("" if of_all and _rank() > 0 else message, code=1)
    except Exception as error:
        message = traceback.format_exc()
        for end in filter(None, (explain(error) for explain in explainers)):
            _leave_after(end)
        leave_with_others(message)
        # Where one rank fails, the collectives of the others fail too: their tracebacks would hide the first.
        _wait_for_torchrun(seconds=2)
        _leave(message, code=1)


def interrupted() -> str:
    """The last line after Ctrl-C."""
    if _rank() > 0:
        return ""
    return "stopped by Ctrl-C" + (f" in step {here.step}: {here.kept_and_lost()}" if here.step else "")


def _interrupt(signum, frame) -> None:
    """Ctrl-C unwinds the program, and ends it after GRACE_S all the same.

    Unwinding may not reach the end: Python drops exceptions in destructors, and the main thread may hang.
    """
    last_resort = threading.Timer(GRACE_S, end_process, [interrupted(), 130])
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
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # that is how; training gives it another meaning
        time.sleep(seconds + (3.0 if _rank() > 0 else 0.0))


def _leave_after(end: EndOfScript) -> NoReturn:
    leave_with_others(end.elsewhere, ranks_know=end.ranks_know)
    _leave(str(end), end.code)


def _leave(message: str, code: int) -> NoReturn:
    """End the process without Python's own shutdown, in which torch's threads are not safe.

    A thread of gloo that drops the last reference to a tensor during the shutdown aborts the process
    (https://github.com/pytorch/pytorch/issues/190489). After a failure, destructors would also wait for peers
    that may be gone, and for locks of killed workers.
    """
    with contextlib.suppress(OSError):  # where stdout cannot be written, `message` says so
        sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # workers are killed below, which is no error
    end_process(message, code)
