"""Reads many changed inputs in forked processes, within limits, and says what came of each.

same, other   it was read; with the content of the sound files, or with another one
told          a ValueError or OSError of one line that names the file
vague         such an error that does not name it
traceback     any other exception
memory, hang  more than MEMORY_MIB or SECONDS, whatever the end
crash         the process was ended by a signal
executed      a line of the input was run as a program: it has written the canary
"""

import faulthandler
import json
import os
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

SECONDS, MEMORY_MIB = 10, 2048
BATCH = 400  # inputs for one process
FAULTS = ("vague", "traceback", "memory", "hang", "crash", "executed")


class Outcome(NamedTuple):
    """What came of one input."""

    number: int  # of the input: with the seed it makes the input again
    kind: str
    detail: str


def watch(
    target, seed: int, count: int, folder: Path, *, until: float = float("inf"), batch: int = BATCH
) -> tuple[Counter, list[Outcome]]:
    """Inputs 0 … count − 1 of a target, up to the time `until`. Returns counts and faults."""
    counts, faults, start = Counter(), [], 0
    while start < count and time.monotonic() < until:
        end = min(start + batch, count)
        for found in _in_child(lambda number: _one(target, seed, number, folder), range(start, end)):
            kind = "changed" if found.kind == "other" and target.checksum else found.kind
            counts[kind] += 1
            start = found.number + 1
            if kind in (*FAULTS, "changed"):
                faults.append(found._replace(kind=kind))
    return counts, faults


def mutated(target, seed: int, number: int) -> dict[str, bytes]:
    """The files of one input, by name."""
    return target.mutate(random.Random(f"{target.name} {seed} {number}"))


def _one(target, seed: int, number: int, folder: Path) -> tuple[str, str]:
    canary = folder / "canary"
    for name, data in mutated(target, seed, number).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    began, before = time.monotonic(), _status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    try:
        kind, detail = ("same" if target.is_sound(folder) else "other"), ""
    except (ValueError, OSError) as error:
        detail = f"{type(error).__name__}: {error}"
        kind = "told" if target.names(str(error), folder) and "\n" not in str(error) else "vague"
    except MemoryError as error:
        kind, detail = "memory", repr(error)
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        kind, detail = (
            "traceback",
            f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})",
        )
    if canary.exists():
        canary.unlink()
        return "executed", detail
    if _status_mib("VmHWM") - before > MEMORY_MIB:
        return "memory", f"{kind} {detail}"
    return ("hang", f"{kind} {detail}") if time.monotonic() - began > SECONDS else (kind, detail)


def _in_child(call: Callable[[int], tuple[str, str]], numbers: range) -> list[Outcome]:
    """What `call` returns for each number, up to the first that ends the process."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _be_the_child(call, numbers, write_end)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        found = [Outcome(*json.loads(line)) for line in pipe]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        last = found[-1].number if found else numbers.start - 1
        kind = "hang" if -status == signal.SIGALRM else "crash"
        found.append(Outcome(last + 1, kind, f"signal {-status}"))
    return found


def _be_the_child(call: Callable[[int], tuple[str, str]], numbers: range, write_end: int) -> None:
    """Never returns."""
    try:
        faulthandler.disable()  # a crash is told by the parent
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)  # libraries in C tell of each broken image
        room = int((_status_mib("VmSize") + 2 * MEMORY_MIB) * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        torch.set_num_threads(1)  # of the parent's threads a child has only the one that forked
        with os.fdopen(write_end, "w", buffering=1) as pipe:
            for number in numbers:
                signal.alarm(2 * SECONDS)
                pipe.write(json.dumps((number, *call(number))) + "\n")
        os._exit(0)
    finally:
        os._exit(1)


def _status_mib(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024
