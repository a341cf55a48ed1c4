"""Ranks that differ, or of which one fails, all end before the first step, with one line that says why."""

import pytest

from helpers.rank_runs import train_on_ranks
from helpers.ranks import run_ranks
from helpers.train_runs import SMALL, write_faces
from ranks.agreement import compare_ranks, differences, tell
from ranks.fail_together import fail_together
from utils.distributed import rank
from utils.errors import GroupError


def outcome(action, *args) -> str:
    try:
        action(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "fine"


def fail_at(ranks, error=ValueError) -> None:
    with fail_together():
        if rank() in ranks:
            raise error(f"no file on rank {rank()}" if len(ranks) < 3 else "no file")


def fail_inside() -> None:
    """An inner error is told once, not again by each block around it."""
    with fail_together():
        fail_at([2])
        raise AssertionError("not reached")


def fault_inside() -> None:
    """A fault of ours keeps its kind on its rank, through both blocks; the others hear of it once."""
    with fail_together():
        fail_at([0], KeyError)
        raise AssertionError("not reached")


def fail_early() -> None:
    """The exchange of the rank that failed meets the inner one of the others."""
    with fail_together():
        if rank() == 0:
            raise ValueError("early")
        fail_at([])
        raise AssertionError("not reached")


def cases() -> dict[str, str]:
    return {
        "equal": outcome(compare_ranks, {"a": 1, "b": {"c": [1, 2]}, "own": None}, "remedy"),
        "differ": outcome(compare_ranks, {"a": 1, "b": {"c": 0.5 if rank() == 1 else [1, 2]}}, "remedy"),
        "missing": outcome(compare_ranks, {"a": 1} if rank() == 2 else {"a": 1, "b": 2}, "remedy"),
        "nobody": outcome(fail_at, []),
        "one": outcome(fail_at, [1]),
        "two": outcome(fail_at, [2, 1]),
        "all": outcome(fail_at, [0, 1, 2]),
        "inside": outcome(fail_inside),
        "early": outcome(fail_early),
        "fault inside": outcome(fault_inside),
        "ours": outcome(fail_at, [1], KeyError),
        "after": outcome(compare_ranks, {"a": 1}, "remedy"),  # the exchanges still meet one another
    }


def test_every_rank_raises_what_one_of_them_met():
    ranks = run_ranks(3, cases)
    for found in ranks:
        assert found | {"ours": "", "fault inside": ""} == {
            "equal": "fine",
            "differ": "GroupError: rank 1 has b.c 0.5, rank 0 has [1, 2]: remedy",
            "missing": "GroupError: rank 2 has b nothing, rank 0 has 2: remedy",
            "nobody": "fine",
            "one": "GroupError: rank 1: no file on rank 1",
            "two": "GroupError: rank 1: no file on rank 1",
            "all": "GroupError: no file",
            "inside": "GroupError: rank 2: no file on rank 2",
            "early": "GroupError: rank 0: early",
            "fault inside": "",
            "ours": "",
            "after": "fine",
        }
    kinds = {name: [found[name].split(":")[0] for found in ranks] for name in ("fault inside", "ours")}
    assert kinds["fault inside"] == ["KeyError", "GroupError", "GroupError"]
    assert kinds["ours"] == ["GroupError", "KeyError", "GroupError"]
    assert "rank 1: KeyError" in ranks[0]["ours"]


def test_alone_an_error_stays_what_it_is():
    with pytest.raises(FileNotFoundError, match="gone"), fail_together():
        raise FileNotFoundError("gone")
    compare_ranks({"a": 1}, "remedy")
    assert issubclass(GroupError, ValueError)  # one line for the user


def test_differences_are_named_to_their_part_and_counted():
    found = differences({"a": 1, "b": {"c": 2, "d": 3}, "e": {}}, {"b": {"c": 2, "d": 4}, "e": None, "f": 0})
    assert found == [("a", 1, "nothing"), ("b.d", 3, 4), ("e", {}, None), ("f", "nothing", 0)]
    assert tell(found, "there") == "a 1, there nothing; b.d 3, there 4; e {}, there None; and 1 more"


# ---------------------------------------------------------------- train_v2.py on two ranks


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, tuple]:
    """By what differs: words of the message, and what became of the two ranks."""
    folder = tmp_path_factory.mktemp("differ")
    faces, fewer = write_faces(folder / "faces"), write_faces(folder / "fewer", images_each=7)
    common = ["configs/synthetic", *SMALL, "num_classes=None", "num_image=None", "save_all_states=true"]
    common += ["num_workers=0", f"rec={faces}"]
    changes = {
        "lr=0.5": "rank 1 has lr 0.5, rank 0 has 0.05",
        "seed=1": "rank 1 has seed 1, rank 0 has 2048",
        "loss=cosface": "rank 1 has loss cosface, rank 0 has arcface",
        "loss_args.m=0.3": "rank 1 has loss_args.m 0.3, rank 0 has nothing",
        "num_steps=9": "rank 1 has num_steps 9, rank 0 has 6",
        "batch_size=99": "rank 1 has batch_size 99, rank 0 has 4",
        "num_classes=9": "rank 1 has num_classes 9, rank 0 has None",
        "checkpoint_every=2": "rank 1 has checkpoint_every 2, rank 0 has 0",
        "network=r18 network_args={}": "rank 1 has network r18, rank 0 has mbf",
        f"rec={fewer}": "rank 1 has num_image 35, rank 0 has 40",
        "rec=/nowhere": "rank 1: /nowhere: no such folder",
        "val_targets=[pears]": "rank 1: val_targets: ",
        "val_targets=[pairs]": "rank 1 has verification set pairs ",
        "lr=fast": "rank 1: lr='fast': allowed is",  # found before there is a process group
        f"output={folder}/elsewhere": "rank 1: output=",
    }
    runs = []
    for number, change in enumerate(changes):
        own = [*common, f"output={folder}/{number}"]
        runs.append([own, [*own, *change.split()]])
    return dict(zip(changes, zip(changes.values(), train_on_ranks(*runs))))


def test_no_rank_goes_on_or_waits_where_something_differs(outcomes):
    for change, (words, ranks) in outcomes.items():
        assert [code for code, _ in ranks] == [1, 1], f"{change}: {ranks}"
        lines = [line for _, output in ranks for line in output.splitlines() if "error" in line]
        assert len(lines) == 1, f"{change}: {lines}"
        assert lines[0].startswith(f"error: {words}"), f"{change}: {ranks[0][1]}"
        assert not any("Traceback" in output or "step 1/" in output for _, output in ranks), change


def test_what_belongs_to_a_machine_may_differ(tmp_path):
    faces = write_faces(tmp_path / "faces")
    (tmp_path / "link").symlink_to(tmp_path)
    common = ["configs/synthetic", *SMALL, "num_classes=None", "num_image=None", "save_all_states=true"]
    common += ["num_steps=3", "check_ranks_every=1"]
    first = [f"rec={faces}", f"output={tmp_path}/run", "num_workers=0", "val_targets=[pairs]"]
    other = [f"rec={tmp_path}/link/faces", f"output={tmp_path}/link/run", "num_workers=1"]
    other += [f"val_targets=[{tmp_path}/link/faces/pairs.bin]", "tensorboard=true"]
    (ranks,) = train_on_ranks([[*common, *first], [*common, *other]])
    assert [code for code, _ in ranks] == [0, 0], ranks


# Rank 1 computes with another number from step 3 on.
DRIFT = """
real = train_v2.data_parallel

def data_parallel(model, device):
    calls = []

    def drift(*_):
        calls.append(None)
        if len(calls) == 3:
            model.features.layers[2].weight.data.view(-1)[0] += 1e-6

    ddp = real(model, device)
    ddp.register_forward_pre_hook(drift)
    return ddp

train_v2.data_parallel = data_parallel
"""


def test_weights_that_drift_apart_end_the_run_before_they_are_saved(tmp_path):
    common = ["configs/synthetic", *SMALL, "num_classes=None", "num_image=None", "save_all_states=true"]
    common += ["num_workers=0", f"rec={write_faces(tmp_path / 'faces')}", "checkpoint_every=2"]
    runs = {"check_ranks_every=1": 3, "check_ranks_every=1000": 4, "check_ranks_every=0": None}
    outcomes = train_on_ranks(*([[*common, f"output={tmp_path}/{n}", n]] * 2 for n in runs), code=DRIFT)
    for (name, step), ranks in zip(runs.items(), outcomes):
        saved = {path.name for path in (tmp_path / name / "checkpoints").iterdir()}
        if step is None:  # nobody looks
            assert [code for code, _ in ranks] == [0, 0], ranks
            continue
        assert [code for code, _ in ranks] == [1, 1], ranks
        assert saved == {"step_00000002"}
        (_, first), (_, second) = ranks
        line = first.strip().splitlines()[-1]
        assert line.startswith("error: rank 1 has backbone.features.layers.2.weight "), line
        assert f"after step {step} the ranks have to hold the same numbers" in line
        assert "error" not in second
