"""Trains on forked ranks and sends them real signals: many runs in one start of Python.

helpers/signal_driver.py forks the ranks of each run from a process that has imported everything, with the
environment that torchrun would give them, each with its workers in a group of its own. No torchrun sees to
them: what they do is their own doing.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from helpers.forks import in_fork


@dataclass
class Event:
    """A signal to ranks, their workers, or both; events come in order.

    Args:
        step: it waits until so many steps are logged,
        saving: and, if wanted, until a file of a model or a checkpoint is being written,
        after: and then as many seconds.
    """

    step: int
    signal: str
    ranks: list[int]
    after: float = 0.0
    target: Literal["group", "rank", "workers"] = "group"
    saving: bool = False


@dataclass
class Run:
    """A run of train_v2.py.

    Args:
        folder: its output.
        settings: "module.NAME" -> value of that constant in this run.
        arguments_of_rank: rank -> further arguments.
        on_rank: rank -> programs in Python that it executes before; they see `train_v2`.
        left: ranks that are killed when the others have ended; their exit code is then None.
        timeout: seconds after which all that are left are killed.
    """

    arguments: list[str]
    folder: str
    world: int = 2
    events: list[Event] = field(default_factory=list)
    settings: dict[str, float] = field(default_factory=dict)
    arguments_of_rank: dict[int, list[str]] = field(default_factory=dict)
    on_rank: dict[int, list[str]] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    timeout: float = 60.0


def run_in(folder: Path, name: str, *arguments: str, **options) -> Run:
    """A run on the images in `folder`/faces, whose output is `folder`/`name`.

    Args:
        arguments: a config and settings; the last one of a setting counts.
    """
    output = str(folder / name)
    config, *overrides = arguments
    data = [f"rec={folder / 'faces'}", f"output={output}"]
    return Run([config, *data, *overrides], output, **options)


class Outcome(NamedTuple):
    """How a run ended.

    Attributes: codes, exit codes by rank; output, of all ranks together; files in its folder; num_sent,
    signals that have found a process; processes that are left of it, workers for example.
    """

    codes: list[int | None]
    output: str
    files: list[str]
    num_sent: int
    processes: list[str]

    def errors(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith("error")]


def around(where: str, before: str = "pass", after: str = "pass") -> str:
    """A program for `Run.on_rank`: statements before and after each call of `train_v2.where`.

    They see `call`, the number of the call from 1 on, and may change `arguments` and `result`.
    """
    return f"""
def changed(*arguments, real=train_v2.{where}, calls=[], **options):
    calls.append(1)
    call = len(calls)
    {before}
    result = real(*arguments, **options)
    {after}
    return result
train_v2.{where} = changed
"""


def play(*runs: Run) -> list[Outcome]:
    """The runs, one after the other."""
    limit = 60 + sum(run.timeout for run in runs)
    outcomes = in_fork("helpers.signal_driver.play_all", [asdict(run) for run in runs], timeout=limit)
    return [Outcome(**outcome) for outcome in outcomes]
