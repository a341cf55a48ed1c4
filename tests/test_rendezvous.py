"""The ranks of one start agree on a name, whatever the ranks before them have left in the store."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from utils import rendezvous
from utils.logging import LOGGER_NAME
from utils.rendezvous import agree_on_name


@pytest.fixture
def start():
    """Starts so many ranks, as threads, at the store; returns the future name of each."""
    with ThreadPoolExecutor(8) as pool:

        def start(store, world_size: int, ranks, timeout_s: float = 20.0) -> list:
            return [pool.submit(agree_on_name, store, r, world_size, timeout_s) for r in ranks]

        yield start


def test_each_start_at_a_store_has_a_name_of_its_own_that_its_ranks_have_in_common(start):
    store, seen = dist.HashStore(), set()
    for world_size in (2, 2, 3, 1, 4):
        names = {future.result() for future in start(store, world_size, range(world_size))}
        assert len(names) == 1
        assert not names & seen
        seen |= names


def test_a_rank_that_died_before_it_met_the_others_leaves_nothing_that_counts(start):
    store = dist.HashStore()
    store.set("word/1", "of a process that is gone")
    rank_0, rank_2 = start(store, 3, [0, 2])
    (rank_1,) = start(store, 3, [1])
    assert rank_0.result() == rank_1.result() == rank_2.result()


def test_ranks_that_do_not_come_are_named_in_time(start, monkeypatch):
    lines = []
    monkeypatch.setattr(rendezvous, "PATIENCE_S", 0.2)
    monkeypatch.setattr(logging.getLogger(LOGGER_NAME), "warning", lines.append)
    store = dist.HashStore()
    rank_0, _ = start(store, 4, [0, 2], timeout_s=0.9)
    with pytest.raises(TimeoutError, match=r"of the ranks 1, 3 did not come within 0.015 minutes"):
        rank_0.result()
    assert {re.sub(r"\(\d s\)", "", line) for line in lines} == {"waiting  for the start of rank 1, 3"}
    (rank_1,) = start(dist.HashStore(), 4, [1], timeout_s=0.3)
    with pytest.raises(TimeoutError, match=r"rank 0 has not come within 0.005 minutes"):
        rank_1.result()
