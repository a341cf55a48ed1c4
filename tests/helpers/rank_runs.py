"""Runs train_v2.py on several ranks, each with arguments of its own; many such runs in one start."""

import os
import socket
import sys
import tempfile
import time

from helpers.forks import in_fork


def train_ranks_in_forks(ranks: list, timeout: float) -> list[tuple[int | str, str]]:
    """Exit code and output of each of `ranks`, (environment, arguments, code); all at the same time."""
    import train_v2
    from utils.command_line import run_script

    started = []
    for environment, arguments, code in ranks:
        out = tempfile.TemporaryFile()  # noqa: SIM115  (read when all have ended)
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
            os.environ.update(environment)
            sys.argv = ["train_v2.py", *arguments]
            exec(code, {"train_v2": train_v2})
            run_script(train_v2.main)
        started.append((child, out))
    codes, end = {}, time.monotonic() + timeout
    while len(codes) < len(started) and time.monotonic() < end:
        for child, _ in started:
            if child not in codes and (ended := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(ended[1])
        time.sleep(0.02)
    for child, _ in started:
        if child not in codes:
            os.kill(child, 9), os.waitpid(child, 0)
    outcomes = []
    for child, out in started:
        out.seek(0)
        outcomes.append((codes.get(child, "hangs"), out.read().decode()))
    return outcomes


def train_on_ranks(
    *runs: list[list], timeout: float = 100, code: str = "", code_of_all: str = ""
) -> list[list[tuple[int | str, str]]]:
    """Run `train_v2.py` once for each run, which is a list of arguments for each of its ranks.

    Args:
        code: run on the last rank of each before it starts; it may change what is in `train_v2`.
        code_of_all: likewise, on every rank.
    Returns:
        (exit code, output) of each rank, run by run; "hangs" for a code after `timeout` seconds.
    """
    ranks = []
    for run in runs:
        port = str(_free_port())
        for rank, arguments in enumerate(run):
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(run))}
            own_code = code_of_all + (code if rank == len(run) - 1 else "")
            ranks.append((address | numbers, list(map(str, arguments)), own_code))
    name = "helpers.rank_runs.train_ranks_in_forks"
    outcomes = iter([tuple(outcome) for outcome in in_fork(name, ranks, timeout, timeout=timeout + 60)])
    return [[next(outcomes) for _ in run] for run in runs]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
