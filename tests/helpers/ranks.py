"""Run a function on the ranks of a real process group, within a time limit, and bring the results home."""

import multiprocessing
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait

import torch

from utils.distributed import start_process_group, stop_process_group

# What takes seconds to import; torch._dynamo is imported by the first step of an optimiser.
PRELOADED = ["torch", "torch._dynamo", "torch.nn.parallel", "numpy", "cv2"]
SECONDS_FOR_ITS_PEERS = 5  # that ranks have to end with words of their own, once one has failed


def run_ranks(world_size: int, function: Callable, *args, timeout: float = 120) -> list:
    """`function(*args)` on each rank of a gloo group of fresh processes; what each returned, by rank.

    The processes are forks of one that has imported torch, and nothing else has happened in. `function` is
    sent by name (the top level of a test module), arguments and results by value.

    Raises:
        AssertionError: a rank raised (the message holds its traceback), died, or all together took longer
            than `timeout` seconds. No process is left in any case.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(world_size),
    }
    pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
    processes = [
        context.Process(
            target=_one_rank, args=(sender, {**environment, "RANK": str(r)}, timeout, function, args)
        )
        for r, (_, sender) in enumerate(pipes)
    ]
    try:
        for process, (_, sender) in zip(processes, pipes):
            process.start()
            sender.close()  # so that the end of the process is the end of its pipe
        return _receive([receiver for receiver, _ in pipes], time.monotonic() + timeout, timeout)
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _receive(receivers: list, deadline: float, timeout: float) -> list:
    results: dict[int, object] = {}
    failures: dict[int, str] = {}
    waiting = {receiver: r for r, receiver in enumerate(receivers)}
    while waiting:
        ready = wait(list(waiting), max(0, deadline - time.monotonic()))
        if not ready:
            break
        for receiver in ready:
            r = waiting.pop(receiver)
            try:
                failure, results[r] = pickle.loads(receiver.recv_bytes())
            except EOFError:
                failure = "died without a word"
            if failure:
                failures[r] = f"rank {r} of {len(receivers)}: {failure}"
        if failures:  # the peers of a failing rank fail too and may be heard first: all get time to speak
            deadline = min(deadline, time.monotonic() + SECONDS_FOR_ITS_PEERS)
    if failures:
        raise AssertionError("\n".join(failures[r] for r in sorted(failures)))
    if waiting:
        raise AssertionError(f"ranks {list(waiting.values())} did not finish within {timeout} s")
    return [results[r] for r in range(len(receivers))]


def _one_rank(sender, environment: dict[str, str], timeout: float, function: Callable, args: tuple) -> None:
    # LOCAL_RANK is left out on purpose: code that takes it for the rank is found out.
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        start_process_group(timeout_minutes=timeout / 60)
        answer = None, function(*args)
        stop_process_group()
    except BaseException:
        answer = traceback.format_exc(), None
    # By value: torch's own pickling would hand over shared memory, which ends with this process.
    sender.send_bytes(pickle.dumps(answer))
    sender.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
