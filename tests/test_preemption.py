"""SIGTERM and SIGUSR1 end a run after its step with all that it needs to go on; SIGKILL loses only steps."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.ranks import run_ranks
from helpers.run_ends import assert_same_end, metrics
from helpers.signal_runs import Event, Outcome, Run, play, run_in
from helpers.train_runs import SMALL, write_faces
from ranks.preemption import EXIT_CODE, MARKER, arrived_signals, heed_signals, stop
from training.run_folder import RunFolder
from utils.command_line import EndOfScript
from utils.distributed import gather_labels, rank, row_counts
from utils.progress import here

# ---------------------------------------------------------------- the flag and its way to the others


@pytest.fixture
def progress():
    here.begin()
    yield here
    here.begin()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_sets_a_flag_during_the_steps_and_is_what_it_was_afterwards(progress, tmp_path, number):
    before = signal.getsignal(number)
    for step in heed_signals(range(3)):
        if step == 1:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)  # a second one: the first is what the run says it has got
    assert progress.stop_wanted == signal.Signals(number).name
    assert arrived_signals() >= {number}
    assert arrived_signals() == set()
    assert signal.getsignal(number) is before


def test_another_thread_knows_of_a_signal_before_the_main_thread_is_back(progress, tmp_path):
    """The handler runs between two lines of Python: not while a library waits for a rank that is gone."""
    seen = []

    def watch():
        os.kill(os.getpid(), signal.SIGTERM)
        while not seen:
            seen.extend(arrived_signals() & {signal.SIGTERM})
        held.release()

    held = threading.Lock()
    held.acquire()
    for _ in heed_signals(range(1)):
        threading.Thread(target=watch).start()
        assert held.acquire(timeout=10)
    assert seen == [signal.SIGTERM]


def counts_of_labels(number: int) -> list[int]:
    return gather_labels(torch.zeros(number, dtype=torch.int64), room=5)[0]


def wish_of_rank_1(folder: Path, counts: Callable) -> tuple[list, bool]:
    """What each of three steps knows; whether the marker was there when this rank left."""
    answers = []
    for step in range(3):
        if step == 1 and rank() == 1:
            here.stop_wanted = "SIGTERM"
        answers.append((counts(4 + rank()), here.stop_agreed))
    if rank() == 0:
        time.sleep(0.5)  # as if it were still writing the model
    try:
        stop(folder, 3, 9)
    except EndOfScript:
        return answers, (folder / MARKER).exists()


@pytest.mark.parametrize("counts", [row_counts, counts_of_labels])
def test_the_wish_of_one_rank_reaches_all_in_the_same_step_and_rank_0_writes_before_any_leaves(
    tmp_path, counts
):
    for answers, was_marked in run_ranks(2, wish_of_rank_1, tmp_path, counts):
        assert answers == [([4, 5], False), ([4, 5], True), ([4, 5], True)]
        assert was_marked


def test_alone_the_wish_is_agreed_at_once(progress):
    progress.stop_wanted = "SIGTERM"
    assert row_counts(4) == [4]
    assert progress.stop_agreed is True


@pytest.mark.parametrize(("saved", "words"), [(7, "resume=auto"), (None, "save_all_states is false")])
def test_the_marker_says_what_the_last_line_says_and_the_next_run_removes_it(
    progress, tmp_path, saved, words
):
    progress.stop_wanted, progress.saved = "SIGUSR1", saved
    with pytest.raises(EndOfScript, match=f"^stopped by SIGUSR1 after step 7 of 9: .*{words}") as end:
        stop(tmp_path, 7, 9)
    assert end.value.code == EXIT_CODE == 75
    assert str(end.value) in (tmp_path / MARKER).read_text()
    RunFolder(tmp_path, shared=False).release()
    assert not (tmp_path / MARKER).exists()


# ---------------------------------------------------------------- real signals to real ranks

COMMON = ["configs/synthetic", *SMALL, "num_classes=None", "num_image=None", "save_all_states=true"]
COMMON += ["num_steps=9", "checkpoint_every=4", "loss=curricularface", "regularizers=[center]", "dropout=0.2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("preemption")


@pytest.fixture(scope="module")
def outcomes(folder) -> dict[str, Outcome]:
    """Of each run how it ended; some go on in the folder of another."""
    write_faces(folder / "faces")

    def run(*more: str, out: str, **options) -> Run:
        return run_in(folder, out, *COMMON, *more, **options)

    one_then_all = [
        Event(5, "SIGTERM", [1]),
        Event(5, "SIGTERM", [0, 1], after=0.01),
        Event(5, "SIGUSR1", [0, 1], after=0.01),
    ]
    runs = {
        "whole": run(out="whole"),
        "preempted": run(out="preempted", events=one_then_all),
        "went on": run("resume=auto", out="preempted"),
        "is done": run("resume=auto", out="preempted", world=1),
        "killed": run("resume=auto", out="killed", events=[Event(6, "SIGKILL", [1])]),
        "restarted": run("resume=auto", out="killed"),
        "refused": run(out="killed", world=1),
        "model only": run(
            "save_all_states=false",
            "verbose=1",
            "val_targets=[pairs]",
            out="model",
            world=1,
            events=[Event(5, "SIGUSR1", [0])],
        ),
        "ctrl-c": run(out="ctrl-c", world=1, events=[Event(6, "SIGINT", [0])]),
        "ctrl-c early": run("checkpoint_every=9", out="early", world=1, events=[Event(2, "SIGINT", [0])]),
    }
    return dict(zip(runs, play(*runs.values())))


def stopped_after(outcome: Outcome) -> int:
    """The step that the one line of a stop names."""
    lines = [line for line in outcome.output.splitlines() if line.startswith("stopped by")]
    assert len(lines) == 1, outcome.output
    return int(re.search(r"step (\d+)", lines[0])[1])


def test_ranks_of_which_one_is_asked_stop_after_the_same_step_with_a_checkpoint(outcomes):
    outcome = outcomes["preempted"]
    assert outcome.codes == [EXIT_CODE, EXIT_CODE], outcome.output
    step = stopped_after(outcome)
    assert step in (6, 7), "the step that ran when the signal came, or the next"
    assert f"checkpoints/step_{step:08d}/manifest.json" in outcome.files
    assert {MARKER, "model.pt"} <= set(outcome.files)
    assert not any("tmp" in file or "partial" in file for file in outcome.files)
    assert "Traceback" not in outcome.output
    assert not outcome.errors()


def test_a_run_that_was_preempted_out_of_turn_ends_bit_for_bit_as_if_it_had_not_been(outcomes, folder):
    assert outcomes["whole"].codes == outcomes["went on"].codes == [0, 0]
    assert MARKER not in outcomes["went on"].files
    assert_same_end(folder / "preempted", folder / "whole", 9)


def test_a_rank_that_is_killed_costs_one_line_and_the_run_goes_on_to_the_same_end(outcomes, folder):
    outcome = outcomes["killed"]
    assert outcome.codes == [1, -signal.SIGKILL], outcome.output
    assert "Traceback" not in outcome.output
    (line,) = outcome.errors()
    assert re.match(r"error: lost rank 1, last seen in (step \d|its start).*, no sign of life", line), line
    assert "the checkpoint of step 4 is kept, steps 5 to" in line
    assert line in (folder / "killed/train.log").read_text()
    assert outcomes["restarted"].codes == [0, 0], outcomes["restarted"].output
    assert_same_end(folder / "killed", folder / "whole", 9)


def test_resume_auto_leaves_a_finished_run_alone_and_without_it_a_folder_is_refused(outcomes):
    assert outcomes["is done"].codes == [0]
    assert outcomes["is done"].output.count("nothing is left to do") == 1
    assert outcomes["refused"].codes == [1]
    assert "resume=auto" in outcomes["refused"].output.splitlines()[-1]


def test_without_checkpoints_the_model_is_kept_and_the_line_says_what_is_not(outcomes, folder):
    outcome = outcomes["model only"]
    assert outcome.codes == [EXIT_CODE], outcome.output
    step = stopped_after(outcome)
    assert step in (6, 7)
    verified = [line["step"] for line in metrics(folder / "model", "eval")]
    assert verified == list(range(1, step)), "the last step is not: there is no time for it"
    assert "save_all_states is false" in outcome.output.splitlines()[-1]
    assert {MARKER, "model.pt"} <= set(outcome.files)


def test_ctrl_c_says_what_is_kept_and_what_is_lost(outcomes):
    for name, kept in (
        ("ctrl-c", r"the checkpoint of step 4 is kept, steps 5 to [67] are lost"),
        ("ctrl-c early", "there is no checkpoint yet, so all steps are lost"),
    ):
        outcome = outcomes[name]
        assert outcome.codes == [130], outcome.output
        last = outcome.output.splitlines()[-1]
        assert re.fullmatch(rf"stopped by Ctrl-C in step [2-7]: {kept}", last), last
        assert MARKER not in outcome.files
