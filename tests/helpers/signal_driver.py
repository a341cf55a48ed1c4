"""Forks the ranks of runs, sends them the signals, and tells how each run ended.

See helpers/signal_runs.py, which starts it.
"""

import importlib
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import ranks.watchdog  # noqa: F401
import train_v2
from utils.command_line import run_script

WAIT_S = 0.005
WAIT_FOR_A_SAVE_S = 0.0005
LAST_TO_LEAVE_S = 10.0  # for workers whose rank was killed


def start(rank: int, port: int, run: dict, out) -> int:
    """Fork a rank, with the environment that torchrun would give it; returns its process number."""
    child = os.fork()
    if child:
        return child
    os.setsid()  # a group of its own, to which its workers belong
    os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(run["world"]))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for name, value in run["settings"].items():
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, value)
    for program in run["on_rank"].get(str(rank), []):
        exec(program, dict(train_v2=train_v2))
    sys.argv = ["train_v2.py", *run["arguments"], *run["arguments_of_rank"].get(str(rank), [])]
    run_script(train_v2.main)


def steps_logged(folder: Path) -> int:
    try:
        return (folder / "metrics.jsonl").read_text().count('"train"')
    except OSError:
        return 0


def is_saving(folder: Path) -> bool:
    """Whether a file of a model or a checkpoint is being written."""
    return any(folder.glob("checkpoints/step_*.tmp")) or any(folder.glob("model.pt*.partial"))


def targets(event: dict, children: list[int]) -> list[int]:
    """The processes that an event is for: of each rank itself, its workers, or both."""
    found = []
    for rank in event["ranks"]:
        if event["target"] != "workers":
            found.append(children[rank])
        if event["target"] != "rank":
            try:
                listed = Path(f"/proc/{children[rank]}/task/{children[rank]}/children").read_text()
                found += map(int, listed.split())
            except OSError:  # it has ended
                pass
    return found


def alive_in(sessions: list[int]) -> list[str]:
    """The processes of these sessions that have not ended, as "number name"."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = stat.read_text().split(" (", 1)
        except OSError:  # it has ended meanwhile
            continue
        name, fields = rest.rsplit(") ", 1)
        state, _, _, session = fields.split()[:4]
        if int(session) in sessions and state != "Z":
            found.append(f"{number} {name}")
    return found


class Ranks:
    """The processes of one run, until the last of them has ended."""

    def __init__(self, run: dict, out):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.run, self.folder = run, Path(run["folder"])
        self.children = [start(rank, port, run, out) for rank in range(run["world"])]
        self.codes: dict[int, int] = {}
        self.num_sent = 0

    def wait(self) -> None:
        """Until all have ended but those that are to be left; the events are sent on the way."""
        events, since = list(self.run["events"]), None
        deadline = time.monotonic() + self.run["timeout"]
        awaited = set(range(self.run["world"])) - set(self.run["left"])
        while not self.codes.keys() >= awaited and time.monotonic() < deadline:
            self._collect()
            if events and since is None and self._has_come(events[0]):
                since = time.monotonic()
            if events and since is not None and time.monotonic() >= since + events[0]["after"]:
                self._send(events.pop(0))
                since = None
            time.sleep(WAIT_FOR_A_SAVE_S if events and events[0]["saving"] else WAIT_S)
        for rank, child in enumerate(self.children):
            if rank not in self.codes:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)

    def left(self) -> list[str]:
        """The processes that are still there when all ranks have ended for a while."""
        deadline = time.monotonic() + LAST_TO_LEAVE_S
        while (found := alive_in(self.children)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _collect(self) -> None:
        for rank, child in enumerate(self.children):
            if rank not in self.codes:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)

    def _has_come(self, event: dict) -> bool:
        return steps_logged(self.folder) >= event["step"] and (not event["saving"] or is_saving(self.folder))

    def _send(self, event: dict) -> None:
        self._collect()
        alive = [child for rank, child in enumerate(self.children) if rank not in self.codes]
        for process in targets(event, self.children):
            if process in alive or process not in self.children:
                try:
                    os.kill(process, getattr(signal, event["signal"]))
                    self.num_sent += 1
                except ProcessLookupError:
                    pass


def play(run: dict) -> dict:
    with tempfile.TemporaryFile("w+") as out:
        processes = Ranks(run, out)
        processes.wait()
        out.seek(0)
        folder = Path(run["folder"])
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        codes = [processes.codes.get(rank) for rank in range(run["world"])]
        numbers = dict(num_sent=processes.num_sent, processes=processes.left())
        return dict(codes=codes, output=out.read(), files=files, **numbers)


def play_all(runs: list[dict]) -> list[dict]:
    return [play(run) for run in runs]
