"""A wait for another rank is told in one line, and so is its end; real ranks get real signals."""

import json
import re
from dataclasses import asdict
from datetime import timedelta
from itertools import count

import pytest
import torch.distributed as dist

from helpers.signal_runs import Event, Outcome, Run, around, play, run_in
from helpers.train_runs import SMALL, write_faces
from ranks import watchdog as module
from ranks.peers import Beat, Peers
from ranks.watchdog import Watchdog
from utils.progress import here

# ---------------------------------------------------------------- what the thread decides


class Ended(Exception):
    """In place of the end of this process."""


class Ranks:
    """A thread of one rank of three, in step 12 and after 50 arrivals; the test beats for the others."""

    def __init__(self, rank: int = 0, timeout_s: float = 1800):
        self.store, self.numbers = dist.HashStore(), count(1)
        self.thread = Watchdog(Peers(self.store, rank, 3), timedelta(seconds=timeout_s))
        here.step, here.arrivals = 12, 50
        self.thread.watch(1.0)

    def wait(self, seconds: int, doing: str = "training", **arrivals: int) -> None:
        """So many turns of the thread. `r1=49`: rank 1 beats, and has arrived so often."""
        for _ in range(seconds):
            for name, arrived in arrivals.items():
                beat = Beat(next(self.numbers), arrived, 12, doing, "process 7 on gpu1")
                self.store.set(name[1:], json.dumps(asdict(beat)))
            self.thread.watch(1.0)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The lines of the thread; it raises `Ended` where it would end the process."""

    def end(message: str, code: int):
        raise Ended(message, code)

    lines = []
    here.begin()
    monkeypatch.setattr(module, "end_process", end)
    monkeypatch.setattr(module, "leave_with_others", lambda message, **_: None)
    monkeypatch.setattr(module, "arrived_signals", set)
    monkeypatch.setattr(Watchdog, "_log", lambda self, line: lines.append(line))
    yield lines
    here.begin()


def test_the_rank_that_is_behind_is_named_seldom_and_the_end_of_the_wait_too(said):
    ranks = Ranks()
    ranks.wait(29, r1=49, r2=50)
    assert said == []
    ranks.wait(571, r1=49, r2=50)
    waited = [int(re.search(r"\((\d+) s\)", line)[1]) for line in said]
    assert waited == [30, 60, 120, 240, 480]
    assert re.fullmatch(
        r"waiting since \d\d:\d\d:\d\d \(30 s\) for rank 1 in step 12, training \(process 7 on gpu1\)",
        said[0],
    )
    here.arrivals += 1
    ranks.wait(1, r1=51, r2=51)
    assert re.fullmatch(r"the wait since \d\d:\d\d:\d\d is over, after 600 s", said[-1])


def test_a_rank_that_does_not_run_is_named_though_it_is_in_the_same_place(said):
    ranks = Ranks()
    ranks.wait(3, r1=50, r2=50)
    ranks.wait(40, r2=50)
    (line,) = said
    assert "for rank 1, last seen in step 12, training (process 7 on gpu1, no sign of life)" in line


@pytest.mark.parametrize(
    ("rank", "timeout_s", "arrivals"),
    [
        pytest.param(1, 900, dict(r0=50, r2=49), id="a lower rank speaks"),
        pytest.param(1, 60, dict(r0=51, r2=51), id="it is behind itself"),
        pytest.param(1, 60, dict(r0=51, r2=49), id="it is behind, if not the last"),
        pytest.param(0, 60, dict(r1=50, r2=50), id="all are in the same place"),
    ],
)
def test_other_ranks_say_nothing(said, rank, timeout_s, arrivals):
    Ranks(rank, timeout_s).wait(300, **arrivals)
    assert said == []


def test_long_steps_and_slow_parts_are_given_more_time(said):
    ranks = Ranks()
    ranks.thread.step_times.extend([0.1, 4.0, 4.0, 4.0, 900.0])
    here.step += 1
    ranks.wait(1, r1=49, r2=50)
    ranks.wait(79, r1=49, r2=50)
    assert said == []
    ranks.wait(5, r1=49, r2=50)
    assert "(80 s)" in said[0]
    ranks = Ranks()
    ranks.wait(299, doing="saving", r1=49, r2=50)
    assert len(said) == 1
    ranks.wait(1, doing="saving", r1=49, r2=50)
    assert "(300 s) for rank 1 in step 12, saving" in said[1]


def test_a_process_that_was_suspended_has_not_waited(said, monkeypatch):
    ranks = Ranks(timeout_s=600)
    clock = iter([0.0, 1.0, 5000.0, 5001.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    worlds = iter([3, 3, 3, 1])  # then it has left its group
    monkeypatch.setattr(module, "world_size", lambda: next(worlds))
    ranks.thread.run()
    assert ranks.thread.waited_s == 1.0 + 2.0 + 1.0


def test_the_time_out_ends_the_wait_a_little_before_torch_does(said):
    here.saved = 8
    ranks = Ranks(timeout_s=600)
    with pytest.raises(Ended) as end:
        ranks.wait(600, r1=49, r2=50)
    assert ranks.thread.waited_s == 570
    line, code = end.value.args
    assert code == 1
    assert line.startswith("error: waited 10 minutes in vain for rank 1 in step 12, training (process 7")
    assert line.endswith("; the checkpoint of step 8 is kept, steps 9 to 12 are lost")


def test_a_rank_that_hangs_while_another_has_ended_the_run_follows_it(said):
    ranks = Ranks()
    Peers(ranks.store, 1, 3).leave_note("Traceback\n  File\nKeyError: 'x'")
    with pytest.raises(Ended) as end:
        ranks.wait(60, r2=50)
    assert ranks.thread.waited_s <= 20
    assert end.value.args[0].startswith("error: rank 1 has ended the run: KeyError: 'x'")


# ---------------------------------------------------------------- real signals to real ranks

QUICK = {
    "PATIENCE_STEPS": 1,
    "BEAT_S": 0.1,
    "LOOK_S": 0.3,
    "SILENT_S": 1.0,
    "PATIENCE_S": 1.5,
    "GRACE_S": 1.0,
    "EXPLAIN_S": 2.0,
    "SLOW_PATIENCE_S": 1.5,
}
COMMON = ["configs/synthetic", *SMALL, "num_classes=None", "num_image=None", "num_workers=0", "num_steps=8"]
SLEEP = around("to_input", "if call == 4: __import__('time').sleep(4)")
MISTAKE = around("to_input", "if call == 4: open('/no/such/file')")
FAULT = around("to_input", "if call == 4: {}['x']")
STUCK_IN_START = around("get_dataset", "__import__('time').sleep(4)")
STUCK_IN_SAVING = around("write_backbone", "__import__('time').sleep(4)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("watchdog")


@pytest.fixture(scope="module")
def outcomes(folder) -> dict[str, Outcome]:
    write_faces(folder / "faces")
    quick = {f"ranks.watchdog.{name}": value for name, value in QUICK.items()}
    stopped = Event(3, "SIGSTOP", [1])

    def run(name: str, *more: str, **options) -> Run:
        return run_in(folder, name, *COMMON, *more, settings=quick, **options)

    runs = {
        "stopped": run("stopped", events=[stopped, Event(3, "SIGCONT", [1], after=5)]),
        "time-out": run("time-out", "timeout_minutes=0.05", events=[stopped], left=[1]),
        "sigterm": run("sigterm", events=[stopped, Event(3, "SIGTERM", [0], after=0.5)], left=[1]),
        "ctrl-c": run("ctrl-c", events=[stopped, Event(3, "SIGINT", [0], after=0.5)], left=[1]),
        "start": run("start", on_rank={1: [STUCK_IN_START]}),
        "saving": run("saving", on_rank={0: [STUCK_IN_SAVING]}),
        "slow": run("slow", on_rank={1: [SLEEP]}),
        "mistake": run("mistake", on_rank={1: [MISTAKE]}),
        "fault": run("fault", on_rank={1: [FAULT]}),
    }
    return dict(zip(runs, play(*runs.values())))


def waits(outcome: Outcome) -> list[str]:
    return re.findall(r"waiting since .*|the wait since .*", outcome.output)


def test_a_stopped_rank_is_named_and_the_run_goes_on_with_it(outcomes):
    outcome = outcomes["stopped"]
    assert outcome.codes == [0, 0], outcome.output
    first, *_, last = waits(outcome)
    assert re.fullmatch(
        r"waiting since \d\d:\d\d:\d\d \(\d s\) for rank 1, last seen in step \d, .* "
        r"\(process \d+ on .*, no sign of life\)",
        first,
    )
    assert re.fullmatch(r"the wait since \d\d:\d\d:\d\d is over, after \d s", last)
    assert not outcome.errors()


def test_a_slow_rank_is_named_with_what_it_does(outcomes):
    outcome = outcomes["slow"]
    assert outcome.codes == [0, 0], outcome.output
    assert re.search(r"for rank 1 in step 4, training \(process \d+ on [^,]*\)$", waits(outcome)[0])


@pytest.mark.parametrize(
    ("name", "place"), [("start", "rank 1 in its start"), ("saving", "rank 0 in step 5, saving")]
)
def test_a_rank_that_is_waited_for_while_ranks_agree_is_named(outcomes, name, place):
    """They exchange small objects there: before the first step, and around each save."""
    outcome = outcomes[name]
    assert outcome.codes == [0, 0], outcome.output
    assert place in waits(outcome)[0]


@pytest.mark.parametrize(
    ("name", "line", "code"),
    [
        ("time-out", r"error: waited (0.05 minutes )?in vain for rank 1, last seen in step \d", 1),
        ("sigterm", r"error: stopped by SIGTERM, waiting for rank 1, last seen in step \d", 1),
        ("ctrl-c", r"stopped by Ctrl-C in step \d: there is no checkpoint yet", 130),
    ],
)
def test_a_wait_for_a_stopped_rank_ends_in_one_line(outcomes, folder, name, line, code):
    outcome = outcomes[name]
    assert outcome.codes == [code, None], outcome.output
    assert "Traceback" not in outcome.output
    last = outcome.output.splitlines()[-1]
    assert re.match(line, last), outcome.output
    assert len(outcome.errors()) == (code == 1)
    assert (folder / name / "train.log").read_text().splitlines()[-1].endswith(last)


def test_what_ends_one_rank_is_told_once_and_is_in_the_log_of_rank_0(outcomes, folder):
    outcome = outcomes["mistake"]
    assert outcome.codes == [1, 1], outcome.output
    assert outcome.errors() == ["error: No such file or directory: '/no/such/file'"]
    log = (folder / "mistake/train.log").read_text()
    assert "error: rank 1 has ended the run: No such file or directory: '/no/such/file'" in log
    outcome = outcomes["fault"]
    assert outcome.codes == [1, 1], outcome.output
    assert outcome.output.count("Traceback") == 1
    assert outcome.output.strip().splitlines()[-1] == "KeyError: 'x'"
    assert not outcome.errors()
