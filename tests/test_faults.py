"""Real deaths of real ranks at random moments, broken numbers, full disks, ranks that differ.

Whatever happens, what was saved stays whole, one line says what it was, nothing is left behind, and a run
that goes on ends bit for bit as if nothing had happened. The tests of every day play the first EVERY_DAY
trials, which have each kind of death; `make faults` plays all of them.
"""

import os
import random
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from helpers.run_ends import assert_same_end, losses, metrics
from helpers.setting_changes import CHANGES_TRAINING
from helpers.signal_runs import Event, Outcome, Run, around, play, run_in
from helpers.train_runs import write_faces
from utils.tensor_files import first_not_finite

ALL = os.environ.get("LQFACE_FAULTS") == "all"
EVERY_DAY, ALTOGETHER = 8, 48
STEPS, EVERY = 12, 3
PREEMPTED = 75

# Quick to notice that a rank is gone; the times that users get are in tests/test_watchdog.py.
QUICK = {"BEAT_S": 0.1, "LOOK_S": 0.3, "SILENT_S": 1.0, "EXPLAIN_S": 2.0}
NETWORK = ["network=vit_t", "network_args={depth:1,width:16}", "embedding_size=32"]
MBF = "network=mbf network_args={blocks:[1,1,1,1],scale:1} "
COMMON = ["configs/synthetic", *NETWORK, "num_classes=None", "num_image=None", "dropout=0.2", "lr=0.05"]
COMMON += [
    "batch_size=4",
    "frequent=1",
    "num_workers=1",
    "precision=fp32",
    "tensorboard=false",
    "report=false",
    "val_targets=[]",
]
COMMON += [f"num_steps={STEPS}", f"checkpoint_every={EVERY}", "check_ranks_every=1", "max_skipped_steps=3"]
COMMON += ["save_all_states=true"]

# Runs that differ in what a checkpoint has to hold.
STATES = {
    "row statistics, class rows, sampling, BatchNorm": MBF
    + "loss=curricularface regularizers=[center] sample_rate=0.5",
    "norms, memory, crops": "loss=adaface regularizers=[(ndr,{weight:10})] crop_prob=0.3 low_res_prob=0.3",
    "adamw, accumulation": "loss=arcface regularizers=[disc] optimizer=adamw lr=0.001 gradient_acc=2 "
    "batch_size=2",
    "draws": "loss=elasticface",
    "learnt parameter": "loss=uniface",
    "adversarial warps": "loss=cosface aroface={}",
    "BatchNorm over ranks": MBF + "loss=adaface sync_bn=true",
    "loss scale": "max_skipped_steps=25 precision=fp16",
}
KINDS = (  # of every day, two ranks and one by turns
    "one rank is killed",
    "a worker is killed",
    "SIGTERM to all",
    "all are killed",
    "one rank is killed while saving",
    "SIGUSR1 to one",
    "killed twice",
    "all are killed while saving",
)


@dataclass(frozen=True)
class Trial:
    """A run that is ended once or twice, and then goes on to its end."""

    number: int

    @property
    def kind(self) -> str:
        return KINDS[self.number % len(KINDS)]

    @property
    def state(self) -> str:
        return list(STATES)[(self.number + 3 * (self.number // len(KINDS))) % len(STATES)]

    @property
    def world(self) -> int:
        return 2 - (self.number + self.number // len(KINDS)) % 2

    def events(self, part: int) -> list[Event]:
        """What happens in the first part of the run, or in the second; nothing in the others."""
        if part > ("twice" in self.kind):
            return []
        draw = random.Random(f"{self.number}, {part}")
        ranks = list(range(self.world))
        if not self.kind.startswith(("all", "SIGTERM")):
            ranks = [draw.choice(ranks)]
        number = self.kind.split()[0] if self.kind.startswith("SIG") else "SIGKILL"
        saving = self.kind.endswith("saving")
        after = draw.random() * (0.004 if saving else 0.1)
        target = "workers" if "worker" in self.kind else "rank"
        step = draw.randint(1 if part == 0 else EVERY, STEPS - 5)
        return [Event(step, number, ranks, after, target, saving)]

    def __str__(self) -> str:
        return f"{self.number}: {self.kind}, {self.world} rank(s), {self.state}"


TRIALS = [Trial(number) for number in range(ALTOGETHER if ALL else EVERY_DAY)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    write_faces(folder / "faces")
    return folder


def a_run(folder: Path, name: str, *more: str, **options) -> Run:
    """A run whose output is `folder`/`name`."""
    quick = {f"ranks.watchdog.{name}": value for name, value in QUICK.items()}
    return run_in(folder, name, *COMMON, *more, settings=quick, timeout=120, **options)


# ---------------------------------------------------------------- deaths and signals


@pytest.fixture(scope="module")
def parts_of(folder):
    """Plays the trials, EVERY_DAY of them in one start; gives the outcomes of the parts of one."""
    played: dict[Trial, list[Outcome]] = {}
    whole = set()  # (state, world) of the runs to compare with, to which nothing happens

    def play_with_its_group(trial: Trial) -> list[Outcome]:
        if trial not in played:
            group = [other for other in TRIALS if other.number // EVERY_DAY == trial.number // EVERY_DAY]
            wholes = {(other.state, other.world) for other in group} - whole
            runs = [
                a_run(folder, f"{state} {world}", *STATES[state].split(), world=world)
                for state, world in wholes
            ]
            owners = [None] * len(runs)
            for other in group:
                settings = [*STATES[other.state].split(), "resume=auto"]
                for part in range(3 if "twice" in other.kind else 2):
                    how = dict(world=other.world, events=other.events(part))
                    runs.append(a_run(folder, f"trial {other.number}", *settings, **how))
                    owners.append(other)
            whole.update(wholes)
            for owner, outcome in zip(owners, play(*runs), strict=True):
                played.setdefault(owner, []).append(outcome)
        return played[trial]

    return play_with_its_group


def assert_tidy(outcome: Outcome) -> None:
    """Whatever has ended a run: no traceback, at most one error, no process."""
    assert "Traceback" not in outcome.output, outcome.output
    assert len(outcome.errors()) <= 1, outcome.output
    assert not outcome.processes


@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_a_run_that_is_ended_at_any_moment_goes_on_to_the_same_end(folder, parts_of, trial):
    *ended, last = parts_of(trial)
    code = PREEMPTED if trial.kind.startswith("SIG") else 1
    for outcome in ended:
        assert_tidy(outcome)
        survivors = [of_rank for of_rank in outcome.codes if of_rank != -signal.SIGKILL]
        is_killing = not trial.kind.startswith(("SIG", "a worker"))
        assert (len(survivors) < trial.world) == is_killing, outcome.codes
        assert set(survivors) <= {code}, outcome.output
        if 1 in outcome.codes:
            assert len(outcome.errors()) == 1, outcome.output
    assert last.codes == [0] * trial.world, last.output
    assert_tidy(last)
    assert not [file for file in last.files if "tmp" in file or "partial" in file or "PREEMPTED" in file]
    assert_same_end(folder / f"trial {trial.number}", folder / f"{trial.state} {trial.world}", STEPS)


@pytest.mark.slow
def test_some_are_killed_while_a_file_is_half_written(parts_of):
    saving = [trial for trial in TRIALS if trial.kind.endswith("saving")]
    assert any("tmp/" in file or "partial" in file for trial in saving for file in parts_of(trial)[0].files)


def test_the_trials_have_each_kind_of_death_each_state_and_both_worlds():
    everyday = [Trial(number) for number in range(EVERY_DAY)]
    assert {trial.kind for trial in everyday} == set(KINDS)
    assert {trial.state for trial in everyday} == set(STATES)
    every = [Trial(number) for number in range(ALTOGETHER)]
    assert len({(trial.kind, trial.state, trial.world) for trial in every}) == ALTOGETHER
    assert {(trial.kind, trial.world) for trial in every} == {(kind, w) for kind in KINDS for w in (1, 2)}


# ---------------------------------------------------------------- other numbers of ranks

ELASTIC = [
    *MBF.split(),
    "loss=curricularface",
    "sync_bn=true",
    "dropout=0",
    "lr=0.0001",
    "batch_size=6",
    "resume=auto",
]


@pytest.fixture(scope="module")
def moved(folder) -> list[Outcome]:
    """Two ranks, of which one dies; the other alone until it is killed; three to the end. Then one alone."""
    kill_one, kill_all = Event(4, "SIGKILL", [1]), Event(7, "SIGKILL", [0])
    return play(
        a_run(folder, "moved", *ELASTIC, world=2, events=[kill_one]),
        a_run(folder, "moved", *ELASTIC, world=1, events=[kill_all]),
        a_run(folder, "moved", *ELASTIC, world=3),
        a_run(folder, "alone", *ELASTIC, "batch_size=12", world=1),
    )


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_and_with_more_ranks(folder, moved):
    for outcome in moved:
        assert_tidy(outcome)
    assert [outcome.codes for outcome in moved] == [[1, -9], [-9], [0, 0, 0], [0]]
    assert "it stays the checkpoint's 12" in moved[1].output
    moved, alone = (torch.tensor(losses(folder / name)) for name in ("moved", "alone"))
    torch.testing.assert_close(moved, alone, rtol=0.01, atol=0)  # rounding grows from step to step


# ---------------------------------------------------------------- numbers that are not finite

BREAK_4 = "if call == 4: "
GRADIENT = "next(arguments[0].backbone.parameters())"
BROKEN = {
    "image": around("to_input", after=f"{BREAK_4} result[0, 0, 5, 5] = float('nan')"),
    "loss": around("StepGuard.add", f"{BREAK_4} arguments = (arguments[0], arguments[1] * float('inf'))"),
    "gradient": around("StepGuard.end", f"{BREAK_4} {GRADIENT}.grad[0] = float('nan')"),
    "every image": around("to_input", after="if call >= 5: result[1, 0, 5, 5] = float('nan')"),
    "weight": around("StepGuard.end", after=f"{BREAK_4} {GRADIENT}.data[0] = float('nan')"),
}
UNSEEN = BROKEN["weight"]  # by ranks that are compared seldom


@pytest.fixture(scope="module")
def broken(folder) -> dict[str, Outcome]:
    runs = {what: a_run(folder, what, on_rank={1: [program]}) for what, program in BROKEN.items()}
    runs["unseen"] = a_run(folder, "unseen", "check_ranks_every=1000", on_rank={1: [UNSEEN]})
    runs["went on"] = a_run(folder, "every image", "resume=auto")
    runs["never"] = a_run(folder, "never")
    return dict(zip(runs, play(*runs.values()), strict=True))


def assert_all_finite(run: Path) -> None:
    files = [*run.rglob("step_*/*.pt"), run / "model.pt"]
    assert len(files) >= 3
    for file in files:
        assert first_not_finite(torch.load(file, weights_only=True)) is None, file


@pytest.mark.slow
@pytest.mark.parametrize("what", ["image", "loss", "gradient"])
def test_a_step_that_one_rank_cannot_do_is_skipped_on_all(folder, broken, what):
    outcome = broken[what]
    assert outcome.codes == [0, 0], outcome.output
    assert_tidy(outcome)
    assert [line["skipped"] for line in metrics(folder / what)] == [0] * 3 + [1] * (STEPS - 3)
    assert_all_finite(folder / what)
    assert losses(folder / what)[:3] == losses(folder / "never")[:3]


@pytest.mark.slow
def test_a_run_that_cannot_go_on_names_the_rank_and_the_cause_and_resumes_exactly(folder, broken):
    outcome = broken["every image"]
    assert outcome.codes == [1, 1], outcome.output
    assert_tidy(outcome)
    (line,) = outcome.errors()
    assert re.search(
        r"4 steps in a row were skipped.* on rank 1 images \[1\] of the batch are not finite", line
    )
    assert re.search(r"The batch \(.*train\.rec: record \d+, ", line)
    assert any(re.fullmatch(r"skipped_step_8_rank_1\.pt", file) for file in outcome.files)
    assert broken["went on"].codes == [0, 0], broken["went on"].output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("weight", r"rank 1 has backbone\.\S+ .*after step 4 the ranks have to hold the same numbers"),
        (
            "unseen",
            r"step 8: 4 steps in a row .* on rank 1 \S+ itself is not finite; go on from a checkpoint",
        ),
    ],
)
def test_a_weight_that_breaks_on_one_rank_is_noticed_and_never_saved(folder, broken, what, cause):
    """A save that is due in step 6, among skipped steps, waits for one that is not skipped."""
    outcome = broken[what]
    assert outcome.codes == [1, 1], outcome.output
    assert_tidy(outcome)
    (line,) = outcome.errors()
    assert re.search(cause, line), line
    assert_all_finite(folder / what)


# ---------------------------------------------------------------- disks, and ranks that differ

DIFFERENCES = CHANGES_TRAINING if ALL else ["lr=0.06"]  # tests/test_agreement.py has more
LARGE = ["embedding_size=512", "num_workers=0"]
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
SMALL_FILES = {0: 300_000, 1: 9000}  # bytes that a file of this rank may have, from step 5 on


@pytest.fixture(scope="module")
def refused(folder) -> dict[str, Outcome]:
    runs = {
        change: a_run(folder, f"differs {i}", arguments_of_rank={1: change.split()})
        for i, change in enumerate(DIFFERENCES)
    }
    write_faces(folder / "other faces", seed=1, images_each=9)
    data = {1: [f"rec={folder / 'other faces'}"]}
    runs["data"] = a_run(folder, "other data", arguments_of_rank=data)
    for rank, limit in SMALL_FILES.items():
        full = around("StepGuard.end", f"if call == 5: {LIMIT.format(limit)}")
        runs[f"disk of rank {rank}"] = a_run(folder, f"disk {rank}", *LARGE, on_rank={rank: [full]})
        runs[f"room for rank {rank}"] = a_run(folder, f"disk {rank}", *LARGE, "resume=true")
    runs["large"] = a_run(folder, "large", *LARGE)
    return dict(zip(runs, play(*runs.values()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("change", DIFFERENCES)
def test_ranks_that_differ_do_not_start(refused, change):
    outcome = refused[change]
    assert outcome.codes == [1, 1], outcome.output
    assert_tidy(outcome)
    name = change.split("=")[0].split(".")[0]
    assert re.match(rf"error: rank 1 has .*\b{name}", outcome.errors()[0]), outcome.output
    assert "metrics.jsonl" not in outcome.files


@pytest.mark.slow
def test_ranks_with_other_data_do_not_start(refused):
    outcome = refused["data"]
    assert outcome.codes == [1, 1], outcome.output
    assert re.match(r"error: rank 1 has num_image 45, rank 0 has 40", outcome.errors()[0]), outcome.output


@pytest.mark.slow
@pytest.mark.parametrize("rank", SMALL_FILES)
def test_a_disk_that_is_full_for_one_rank_ends_all_and_what_was_saved_is_gone_on_from(folder, refused, rank):
    outcome = refused[f"disk of rank {rank}"]
    assert outcome.codes == [1, 1], outcome.output
    assert_tidy(outcome)
    assert re.match(rf"error: rank {rank}: File too large: .*\.(pt|partial)'", outcome.errors()[0]), (
        outcome.output
    )
    assert not [file for file in outcome.files if "tmp" in file or "partial" in file]
    assert "checkpoints/step_00000003/manifest.json" in outcome.files
    assert refused[f"room for rank {rank}"].codes == [0, 0], refused[f"room for rank {rank}"].output
    assert_same_end(folder / f"disk {rank}", folder / "large", STEPS)
