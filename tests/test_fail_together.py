"""What fails on one rank fails on every rank, with the reason of the one."""

import time

import pytest

from helpers.ranks import run_ranks
from ranks.fail_together import fail_together
from utils.distributed import rank


def outcomes() -> list[str]:
    """What each of some pieces of work raises on this rank."""
    told = []
    for who, error in (((), None), ((1,), ValueError("bad")), ((0, 1), OSError(28, "Full", "/x"))):
        try:
            with fail_together():
                if rank() in who:
                    raise error
                time.sleep(0.1 * rank())
            told.append("fine")
        except ValueError as found:
            told.append(str(found))
    return told


def test_every_rank_hears_what_failed_on_the_first_that_failed():
    expected = ["fine", "rank 1: bad", "rank 0: Full: '/x'"]
    assert run_ranks(3, outcomes) == [expected] * 3


def fault_of_ours() -> str:
    try:
        with fail_together():
            raise KeyError("not the user's")
    except KeyError as error:
        return str(error)


def test_alone_an_error_stays_what_it_is_and_faults_of_ours_pass():
    with pytest.raises(FileNotFoundError, match="here"), fail_together():
        raise FileNotFoundError("here")
    assert fault_of_ours() == '"not the user\'s"'
