"""Trains on forked ranks and sends them real signals: many runs in one start of Python.

One process imports everything, then forks the ranks of each run with the environment that torchrun would give
them, each with its workers in a group of its own. No torchrun sees to them: what they do is their own doing.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from helpers.train_runs import ENVIRONMENT, ROOT

DRIVER = """
import importlib, json, os, signal, socket, sys, tempfile, time
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
import train_v2
import ranks.watchdog
from utils.command_line import run_script

def start(rank, world, port, run, out):
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for name, value in run["settings"].items():
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, value)
    for line in run["on_rank"].get(str(rank), []):
        exec(line, dict(train_v2=train_v2))
    sys.argv = ["train_v2.py", *run["arguments"]]
    run_script(train_v2.main)

def steps(run):
    try:
        return open(run["folder"] + "/metrics.jsonl").read().count('"train"')
    except OSError:
        return 0

def play(run, world):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile("w+") as out:
        children = [start(rank, world, port, run, out) for rank in range(world)]
        codes, deadline, since, events = {{}}, time.monotonic() + run["timeout"], 0, list(run["events"])
        while not codes.keys() >= set(range(world)) - set(run["left"]) and time.monotonic() < deadline:
            for rank, child in enumerate(children):
                if rank not in codes:
                    done, status = os.waitpid(child, os.WNOHANG)
                    if done:
                        codes[rank] = os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            while events and steps(run) >= events[0]["step"] and now >= since + events[0]["after"]:
                event, since = events.pop(0), now
                for rank in event["ranks"]:
                    if rank not in codes:
                        os.killpg(children[rank], getattr(signal, event["signal"]))
            time.sleep(0.005)
        for rank, child in enumerate(children):
            if rank not in codes:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        out.seek(0)
        files = [os.path.relpath(os.path.join(at, name), run["folder"])
                 for at, folders, names in os.walk(run["folder"]) for name in names]
        return [codes.get(rank) for rank in range(world)], out.read(), files

print("\\n" + json.dumps([play(run, run["world"]) for run in json.loads(sys.argv[1])]))
"""


@dataclass
class Event:
    """A signal to ranks and their workers, `after` seconds after the one before, `step` steps are logged."""

    step: int
    signal: str
    ranks: list[int]
    after: float = 0.0


@dataclass
class Run:
    """A run of train_v2.py.

    Args:
        folder: its output.
        settings: "module.NAME" -> value of that constant in this run.
        on_rank: rank -> lines of Python that it executes before; they see `train_v2`.
        left: ranks that are killed when the others have ended; their exit code is then None.
        timeout: seconds after which all that are left are killed.
    """

    arguments: list[str]
    folder: str
    world: int = 2
    events: list[Event] = field(default_factory=list)
    settings: dict[str, float] = field(default_factory=dict)
    on_rank: dict[int, list[str]] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    timeout: float = 60.0


class Outcome(NamedTuple):
    """How a run ended: exit codes by rank, the output of all ranks together, the files in its folder."""

    codes: list[int | None]
    output: str
    files: list[str]

    def errors(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith("error")]


def play(*runs: Run) -> list[Outcome]:
    """The runs, one after the other."""
    program = [sys.executable, "-c", DRIVER.format(root=str(ROOT)), json.dumps([asdict(run) for run in runs])]
    limit = 60 + sum(run.timeout for run in runs)
    done = subprocess.run(program, capture_output=True, text=True, timeout=limit, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return [Outcome(*outcome) for outcome in json.loads(done.stdout.splitlines()[-1])]
