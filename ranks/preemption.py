"""SIGTERM and SIGUSR1: the run stops at the end of a step, with a checkpoint from which it goes on exactly.

A scheduler that wants the machine back sends SIGTERM (SLURM with --signal=USR1@120: SIGUSR1), and kills some
time later. The signal may reach the ranks at different times, or only some of them. So its handler sets a
flag on the CPU and nothing else; `utils.distributed.row_counts`, which every step calls, carries it to the
others as one more integer; and all ranks stop at the end of the same step. Further signals change nothing: a
scheduler and torchrun often send one each.

Two things tell whoever started the run that it can go on: the file PREEMPTED in its folder, which the next
run removes, and exit code 75. (torchrun hides the codes of its ranks: it ends with 1.)
"""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from utils.command_line import EndOfScript
from utils.distributed import barrier, rank
from utils.files import whole_file
from utils.progress import here

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: it did not fail, try again later
MARKER = "PREEMPTED"

_pipe: list[int] = []  # its ends: Python writes the number of each signal to the second


def heed_signals(steps: Iterable) -> Iterator:
    """The items of `steps`; while they are gone through, the signals are heeded. Main thread only.

    Before and after that a signal ends the process as it ends any program: there is nothing to save.
    """
    if not _pipe:
        _pipe.extend(os.pipe())
        for end in _pipe:
            os.set_blocking(end, False)
    handlers = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
    yield from steps
    # After an error or an agreed stop the process ends: there, a signal from torchrun must not come first.
    signal.set_wakeup_fd(wakeup)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _on_signal(number: int, frame) -> None:
    here.stop_wanted = here.stop_wanted or signal.Signals(number).name


def arrived_signals() -> set[int]:
    """Numbers of the signals since the last call, for another thread.

    Python writes them at once, while a handler has to wait until the main thread is back from a library.
    """
    with suppress(BlockingIOError):
        return set(os.read(_pipe[0], 4096)) if _pipe else set()
    return set()


def stop(output: Path, step: int, total_steps: int) -> NoReturn:
    """Leave the run after `step`, which has been saved; every rank calls this."""
    if here.saved == step:
        outlook = "resume=true or resume=auto goes on from its checkpoint"
    else:
        outlook = "save_all_states is false, so that there is no checkpoint to go on from"
    by = here.stop_wanted or "a signal to another rank"
    line = f"stopped by {by} after step {step} of {total_steps}: {outlook}"
    if rank() == 0:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with whole_file(output / MARKER) as partial:
            partial.write_text(f"{now}  {line}\n")
    barrier()  # torchrun soon kills the others when one rank has left, but rank 0 may still be writing
    raise EndOfScript(line if rank() == 0 else "", EXIT_CODE, elsewhere=line, ranks_know=True)
