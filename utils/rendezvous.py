"""The ranks of one start meet at a store in which an earlier start may have left its keys.

torchrun keeps its store when it starts the ranks again, and torch would connect them to the addresses of
processes that are gone (https://github.com/pytorch/pytorch/issues/135712). The number of restarts, which
torchrun tells its ranks, is not the same on every machine. So rank 0 makes up a name for this start, under
which all keys are then kept, and hands it to every rank that shows itself by a word that no earlier process
can have used.
"""

import logging
import os
import threading
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from utils.log_files import LOGGER_NAME

PAUSE_S = 0.05
PATIENCE_S = 30.0  # before rank 0 says for whom it waits; again after twice the time


def meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """Find the other ranks by the environment that torchrun sets; returns (store, rank, number of ranks).

    Raises:
        TimeoutError: a rank did not come in time; one line for the user.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _connect(rank, world_size, timeout)
    name = agree_on_name(store, rank, world_size, timeout.total_seconds())
    return dist.PrefixStore(name, store), rank, world_size


def _connect(rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """The store at which the ranks meet: torchrun's, or one in rank 0's process, which waits for nobody."""
    waiting = f"waiting for rank 0 at {_address()}"
    timer = threading.Timer(PATIENCE_S, logging.getLogger(LOGGER_NAME).warning, [waiting])
    timer.daemon = True
    timer.start()
    try:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return next(dist.rendezvous("env://", timeout=timeout))[0]
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        how = dict(timeout=timeout, wait_for_workers=False, multi_tenant=True)
        return dist.TCPStore(host, port, world_size, rank == 0, **how)
    finally:
        timer.cancel()


def _address() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def agree_on_name(store, rank: int, world_size: int, timeout_s: float) -> str:
    """A name that all ranks of this start have in common, and nobody before them.

    Raises:
        TimeoutError: a rank did not come in time; one line for the user.
    """
    if rank == 0:
        return _receive(store, set(range(1, world_size)), timeout_s)
    word, deadline = uuid.uuid4().hex, time.monotonic() + timeout_s
    store.set(f"word/{rank}", word)
    while not store.check([f"name/{word}"]):
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank 0 has not come within {timeout_s / 60:g} minutes")
        time.sleep(PAUSE_S)
    name = store.get(f"name/{word}").decode()
    store.set(f"{name}/{rank}", "is here")
    return name


def _receive(store, missing: set[int], timeout_s: float) -> str:
    """Rank 0's part: answers every word until those of this start have said that they are here."""
    name, start, next_line_s = uuid.uuid4().hex, time.monotonic(), PATIENCE_S
    while True:
        for rank in missing:
            if store.check([f"word/{rank}"]):
                store.set(f"name/{store.get(f'word/{rank}').decode()}", name)
        missing = {rank for rank in missing if not store.check([f"{name}/{rank}"])}
        if not missing:
            return name
        waited, who = time.monotonic() - start, ", ".join(map(str, sorted(missing)[:8]))
        if waited > timeout_s:
            raise TimeoutError(f"of the ranks {who} did not come within {timeout_s / 60:g} minutes")
        if waited > next_line_s:
            next_line_s = 2 * waited
            logging.getLogger(LOGGER_NAME).warning(f"waiting ({waited:.0f} s) for the start of rank {who}")
        time.sleep(PAUSE_S)
