"""Ranks know where the others are, and which was the first to end the run."""

import torch.distributed as dist

from ranks.peers import Peers
from utils.progress import Progress, here


def test_the_first_rank_to_end_the_run_is_the_one_that_tells_why():
    store = dist.HashStore()
    first, second = (Peers(store, r, 2) for r in (1, 0))
    assert (first.leave_note("error: bad"), second.leave_note("error: rank 1 has ended the run")) == (
        True,
        False,
    )
    assert second.end == {"rank": 1, "message": "error: bad"}


def test_of_many_ranks_a_line_names_the_first_few():
    peers = Peers(dist.HashStore(), 0, 100)
    line = peers.describe(peers.others, silent=[])
    assert [f"rank {r} in" in line for r in (1, 4, 5)] == [True, True, False]
    assert line.endswith(" and 95 more")


def test_a_beat_tells_the_others_where_a_rank_is_and_silence_is_measured_between_looks():
    store = dist.HashStore()
    one, other = (Peers(store, r, 2) for r in (0, 1))
    one.look(5.0)
    assert (
        one.describe([1], silent=[1]) == "rank 1, last seen in its start (not heard of yet, no sign of life)"
    )
    here.begin()
    with here.part("saving"):
        here.step = 3
        other.beat()
    here.begin()
    one.look(5.0)
    assert (one.silent_s[1], one.beats[1].arrivals) == (0.0, 1)
    assert one.describe([1], silent=[]).startswith("rank 1 in step 3, saving (process ")
    one.look(5.0)
    one.look(2.0)
    assert (one.silent(7.0), one.silent(7.1)) == ([1], [])


def test_what_an_end_keeps_and_loses():
    progress = Progress()
    assert progress.kept_and_lost() == ""
    progress.step = 12
    assert progress.kept_and_lost() == "there is no checkpoint yet, so all steps are lost"
    for saved, words in ((12, ""), (11, ", step 12 is lost"), (8, ", steps 9 to 12 are lost")):
        progress.saved = saved
        assert progress.kept_and_lost() == f"the checkpoint of step {saved} is kept{words}"
