"""torchrun starts ranks again after one is lost, or goes on with fewer; with resume=auto the run goes on."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.rank_runs import train_on_ranks
from helpers.train_runs import ROOT, SMALL, torchrun, write_faces

COMMON = ["configs/synthetic", *SMALL, "num_classes=None", "num_image=None", "num_workers=0", "resume=auto"]
COMMON += ["save_all_states=true", "checkpoint_every=4"]

# The global batch of a run stays the same: a command for any number of ranks has to say how it is divided.
ELASTIC = """
import os, sys
sys.path.insert(0, {root!r})
import train_v2
from utils.command_line import run_script
sys.argv.append(f"batch_size={{8 // int(os.environ['WORLD_SIZE'])}}")
run_script(train_v2.main)
"""


@pytest.fixture
def start(tmp_path):
    """Starts torchrun, whose output goes to tmp_path/NAME.log; no process of it is left after the test."""
    started = []

    def start(name: str, *arguments, **options) -> subprocess.Popen:
        with open(tmp_path / f"{name}.log", "w") as log:
            started.append(torchrun(*arguments, output=log, **options))
        return started[-1]

    yield start
    for process in started:
        for pid in [*ranks_of(process), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        process.wait(timeout=20)


def ranks_of(process: subprocess.Popen) -> list[int]:
    """The processes that torchrun has started, the rank with the lowest number first."""
    with contextlib.suppress(OSError):
        return [
            int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]
    return []


def wait_until(condition: Callable[[], bool], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def steps(folder: Path) -> list[int]:
    with contextlib.suppress(OSError):
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [line["step"] for line in lines if line["kind"] == "train"]
    return []


def errors(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("error")]


def test_a_rank_that_dies_is_started_again_and_the_run_ends_as_if_it_had_not(tmp_path, start):
    faces = write_faces(tmp_path / "faces")
    run, whole = tmp_path / "run", tmp_path / "whole"
    common = [*COMMON, f"rec={faces}", "num_steps=16"]
    for code, output in train_on_ranks([[*common, f"output={whole}"]] * 2)[0]:
        assert code == 0, output
    process = start("run", 2, [*common, f"output={run}"], "--standalone", "--max-restarts=1")
    wait_until(lambda: len(steps(run)) >= 6)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    assert process.wait(timeout=100) == 0, (tmp_path / "run.log").read_text()
    (line,) = errors(tmp_path / "run.log")
    assert re.match("error: lost rank 1, last seen in", line)
    assert json.loads((run / "run.json").read_text())["first_step"] in (4, 8, 12)
    assert (run / "metrics.jsonl").read_text().count("\n") == 16
    assert steps(run) == list(range(1, 17))
    one, other = (torch.load(folder / "model.pt")["state_dict"] for folder in (run, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("ends_with", [signal.SIGKILL, signal.SIGTERM])
def test_a_machine_that_leaves_costs_no_more_than_steps_and_the_other_goes_on(tmp_path, start, ends_with):
    """Two torchruns stand for two machines: one is lost, or its scheduler wants it back."""
    script = tmp_path / "elastic.py"
    script.write_text(ELASTIC.format(root=str(ROOT)))
    run = tmp_path / "run"
    arguments = [*COMMON, f"rec={write_faces(tmp_path / 'faces')}", "num_steps=40", f"output={run}"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--nnodes=1:2", "--max-restarts=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    quick = "last_call_timeout=8,keep_alive_interval=1,keep_alive_max_attempt=3"  # 30 s, 5 s, 3
    stays = start("stays", 1, arguments, *options, f"--rdzv-conf=is_host=true,{quick}", script=script)
    leaves = start("leaves", 1, arguments, *options, f"--rdzv-conf=is_host=false,{quick}", script=script)
    wait_until(lambda: len(steps(run)) >= 6)
    assert json.loads((run / "run.json").read_text())["world_size"] == 2
    if ends_with == signal.SIGKILL:
        for pid in [leaves.pid, *ranks_of(leaves)]:
            os.kill(pid, signal.SIGKILL)
    else:
        leaves.terminate()
    assert stays.wait(timeout=150) == 0, (tmp_path / "stays.log").read_text()
    end = json.loads((run / "run.json").read_text())
    assert end["world_size"] == 1
    assert steps(run) == list(range(1, 41))
    logs = "".join((tmp_path / f"{name}.log").read_text() for name in ("stays", "leaves"))
    if ends_with == signal.SIGTERM:
        (stopped_after,) = re.findall(r"\nstopped by .* after step (\d+) of 40", logs)
        assert end["first_step"] == int(stopped_after), "no step is lost"
        assert not (run / "PREEMPTED").exists()
    else:
        assert len(re.findall(r"\nerror: lost rank [01], last seen in", logs)) == 1
