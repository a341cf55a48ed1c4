"""The loader's worker processes when they, or the training process, end: one line, and no process is left."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.records import write_rec

TRAINING = """
import os, signal, threading, time
from helpers.records import settings
from dataset import get_dataset, get_dataloader
from utils.command_line import run_script

def main():
    cfg = settings(rec={folder!r}, num_workers=2)
    loader = get_dataloader(cfg, get_dataset(cfg), rank=0, world_size=1)
    for epoch in range(10**9):
        loader.set_position(epoch)
        for step, _ in enumerate(loader):
            if epoch == 0 and step == 1:
                {action}
run_script(main)
"""

# Importing torch takes seconds: one process imports everything, then each training runs in a fork of it, as a
# terminal starts one: in a group of its own.
FORKS = """
import ctypes, json, os, signal, sys, tempfile, time
sys.path[:0] = sys.argv[1:3]
import dataset, helpers.records, utils.command_line

def until(is_over, seconds):
    end = time.monotonic() + seconds
    while not is_over() and time.monotonic() < end:
        time.sleep(0.02)

def is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True

outcomes = []
for program in json.loads(sys.argv[3]):
    with tempfile.TemporaryFile() as errors:
        group = os.fork()
        if group == 0:
            os.setsid(), os.dup2(errors.fileno(), 2)
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive the tests
            exec(program, {"__name__": "__main__"})
            sys.exit()
        ended = []
        until(lambda: ended.append(os.waitpid(group, os.WNOHANG)) or ended[-1][0], 30)
        until(lambda: is_gone(group), 10)
        left = not is_gone(group)
        if left:
            os.killpg(group, signal.SIGKILL)
        errors.seek(0)
        code = os.waitstatus_to_exitcode(ended[-1][1]) if ended[-1][0] else None
        outcomes.append((code, errors.read().decode(), left))
print(json.dumps(outcomes))
"""

KILL = "os.kill(loader._loader._iterator._workers[0].pid, signal.SIGKILL)"
KILLED = {
    "in the loader": KILL,
    "in the training step": KILL + "; time.sleep(60)",
    # Locks of a process that was killed stay locked: whoever ends the workers politely waits for ever.
    "while it held a lock": "threading.Thread("
    "target=loader._loader._iterator._workers_done_event._cond.acquire).start(); " + KILL,
}
ACTIONS = KILLED | {
    "the run ends": "globals().update(kept=loader); return",
    # Ctrl-C is what a terminal sends: to every process of the group, wherever each is.
    "signals": "[os.kill(worker.pid, number) for worker in loader._loader._iterator._workers "
    "for number in (signal.SIGTERM, signal.SIGUSR1)]; "
    "threading.Timer(0.2, os.killpg, (0, signal.SIGINT)).start()",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, tuple]:
    """Exit code (None: it went on for ever), errors, and whether a process was left, of each training.

    An action runs after the second batch: both workers have begun by then.
    """
    folder, tests = write_rec(tmp_path_factory.mktemp("data"), list(range(27))), Path(__file__).parent
    programs = [TRAINING.format(folder=str(folder), action=action) for action in ACTIONS.values()]
    command = [sys.executable, "-c", FORKS, str(tests.parent), str(tests), json.dumps(programs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return dict(zip(ACTIONS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("where", KILLED)
def test_a_killed_worker_is_an_error_of_one_line(outcomes, where):
    code, errors, left = outcomes[where]
    assert (code, left) == (1, False)
    assert re.match(r"error: .*DataLoader worker .*: perhaps out of memory", errors), errors
    assert errors.count("\n") == 1, errors


def test_a_run_that_ends_while_its_workers_live_has_succeeded_and_leaves_none(outcomes):
    assert outcomes["the run ends"] == [0, "", False]


def test_signals_do_not_end_workers_and_ctrl_c_ends_all_without_a_word_from_them(outcomes):
    assert outcomes["signals"] == [130, "stopped by Ctrl-C\n", False]
