"""A user's mistake is one line; a fault of ours keeps its traceback."""

import os
import re
import subprocess
import sys

import pytest

from utils.run_info import ROOT

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from utils.command_line import run_script
def main():
    {body}
run_script(main)
"""


def run(body: str, added: str = "", **environment: str) -> subprocess.CompletedProcess:
    script = SCRIPT.format(root=str(ROOT), body=body)
    env = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")} | environment
    command = [sys.executable, "-c", script, *([added, "config", "--out", "x"] if added else [])]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise ValueError('first\\nsecond')", "error: first second"),
        ("open('/no/such/file')", "error: No such file or directory: '/no/such/file'"),
        ("raise ValueError('a\\\\b\\r\\x1b[2J')", "error: a\\b\\r\\x1b[2J"),
        ("raise FileNotFoundError('config x does not exist')", "error: config x does not exist"),
        ("raise ValueError", "error: ValueError"),
    ],
)
def test_a_user_s_mistake_is_one_line_without_traceback(body, line):
    done = run(body)
    assert (done.returncode, done.stderr, done.stdout) == (1, line + "\n", "")


def test_the_traceback_is_there_when_asked_for_and_for_our_own_faults():
    assert "Traceback" in run("raise ValueError('x')", LQFACE_TRACEBACK="1").stderr
    fault = run("raise KeyError('x')")
    assert fault.returncode == 1
    assert "Traceback" in fault.stderr


def test_interrupt_ends_with_code_130_and_one_line_from_rank_0():
    assert run("raise KeyboardInterrupt").returncode == 130
    assert run("raise KeyboardInterrupt").stderr == "stopped by Ctrl-C\n"
    assert run("raise KeyboardInterrupt", RANK="1", WORLD_SIZE="2").stderr == ""


def test_an_interrupt_that_is_lost_or_stuck_ends_the_script_all_the_same():
    swallowed = (
        "import contextlib, os, signal, time\n"
        "    with contextlib.suppress(KeyboardInterrupt): os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(50)"
    )
    done = run(swallowed)
    assert (done.returncode, done.stderr) == (130, "stopped by Ctrl-C\n")


def test_a_script_that_succeeds_says_nothing_and_returns_0():
    done = run("print('done')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("body", ["pass", "raise ValueError('bad')"])
def test_the_end_of_a_script_runs_none_of_what_may_still_abort_it(body):
    # Seen once in some thousand runs: a thread of gloo drops the last tensor while Python ends, and aborts.
    done = run(f"import atexit, os, torch; atexit.register(os.abort); print('done'); {body}")
    assert (done.returncode, done.stdout) == (int(body != "pass"), "done\n")


def test_output_that_cannot_be_written_is_a_mistake_too():
    script = SCRIPT.format(root=str(ROOT), body="import torch; print('done')")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_a_mistake_ends_a_process_that_is_in_a_group_without_waiting_for_its_peers():
    body = (
        "import torch.distributed as d; "
        "d.init_process_group('gloo', store=d.HashStore(), rank=0, world_size=1); raise ValueError('bad')"
    )
    done = run(body)
    assert done.returncode == 1
    assert done.stderr.endswith("error: bad\n")
    assert "Traceback" not in done.stderr


def test_a_mistake_that_every_rank_makes_is_one_line_under_torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), body="raise ValueError('bad')"))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(script),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == ["error: bad"]
    assert re.search(r"\n  traceback : error: bad\n", done.stderr), "it is in torchrun's own report too"


@pytest.mark.parametrize("spelling", ["--local-rank=0", "--local_rank=1"])
def test_what_torch_distributed_launch_adds_to_the_command_is_no_argument(spelling):
    done = run("sys.argv[1:] == ['config', '--out', 'x'] or open(str(sys.argv))", added=spelling)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_ascii_terminal_shows_what_it_can_and_the_script_ends_well():
    done = run("print('accuracy 0.9 ± 0.1 of \\udcff.jpg')", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "accuracy 0.9 \\xb1 0.1 of \\udcff.jpg\n"
