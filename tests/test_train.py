"""train_v2.py from its command line: trains, goes on exactly, stops at once, tells mistakes in one line."""

import contextlib
import json
import os
import pickle
import re
import shutil
import signal
import time

import pytest
import torch

from helpers.train_runs import SMALL, torchrun, train, write_faces
from training import checkpoint


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("data") / "faces")


def metrics(folder, kind: str) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def losses(folder) -> list[float]:
    return [line["loss"] for line in metrics(folder, "train")]


def weights(folder, step: int) -> tuple[dict, dict]:
    shared, sharded = checkpoint.load(folder / "checkpoints", 0, 5, step)
    return shared, sharded


def assert_same_state(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    else:
        assert one == other


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(faces, tmp_path):
    common = [
        "configs/synthetic",
        *SMALL,
        f"rec={faces}",
        "num_classes=None",
        "num_image=None",
        "save_all_states=true",
    ]
    common += ["regularizers=[ndr,disc,center]", "aroface={ratio:0.5}"]
    common += ["checkpoint_every=3", "dropout=0.2", "sample_rate=0.5", "crop_prob=0.5", "gradient_acc=2"]
    whole = [*common, f"output={tmp_path}/whole", "val_targets=[pairs]", "verbose=2", "report=true"]
    ((code, output),) = train(whole)
    assert code == 0, output
    results = tmp_path / "whole"
    expected = (
        "config.json",
        "run.json",
        "train.log",
        "metrics.jsonl",
        "curves.png",
        "model.pt",
        "report.html",
    )
    assert all((results / name).stat().st_size > 0 for name in expected)
    assert [line["step"] for line in metrics(results, "eval")] == [2, 4, 6]
    assert "pairs" in output

    # As if it had been killed after step 5: the newest whole checkpoint is that of step 3.
    shutil.copytree(results, tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed/checkpoints/step_00000006")
    resumed = [*common, f"output={tmp_path}/resumed", "val_targets=[pairs]", "verbose=2", "resume=true"]
    refused = [*common, f"output={tmp_path}/whole"]
    other_network, other_batch = [*resumed, "embedding_size=16"], [*resumed, "batch_size=2"]
    other_data = [*resumed, f"rec={write_faces(tmp_path / 'others', seed=1)}"]
    bad, small, alien, (code, output), (refused_code, refused_output), (late_code, late_output) = train(
        other_network, other_batch, other_data, resumed, refused, resumed
    )
    mistakes = ((bad, "embedding_size 32, this one has 16"), (small, "global_batch 8, this one has 4"))
    for (bad_code, bad_output), words in (*mistakes, (alien, "of a run with images sha256")):
        assert bad_code == 1
        assert words in bad_output.splitlines()[-1]
    assert code == 0, output
    assert losses(tmp_path / "resumed") == losses(results)
    parts = {path.name for path in (tmp_path / "resumed").glob("*.json")} - {"hard_samples.json"}
    assert parts == {"config.json", "run.json", "config.0001.json", "run.0001.json"}
    for name, first_step in (("run.0001.json", 0), ("run.json", 3)):
        assert json.loads((tmp_path / "resumed" / name).read_text())["first_step"] == first_step
    for one, other in zip(weights(results, 6), weights(tmp_path / "resumed", 6)):
        assert_same_state(one, other)

    assert refused_code == 1
    assert "resume=true" in refused_output.splitlines()[-1]
    assert late_code == 1
    assert "of step 6, and the run ends at step 6" in late_output.splitlines()[-1]


def test_first_steps_and_the_last_are_logged_however_seldom_the_log_is(faces, tmp_path):
    run = ["configs/synthetic", *SMALL, f"rec={faces}", "num_classes=None", "num_image=None"]
    ((code, output),) = train([*run, "num_steps=7", "frequent=4", f"output={tmp_path}/run"])
    assert code == 0, output
    assert [line["step"] for line in metrics(tmp_path / "run", "train")] == [1, 2, 4, 5, 7]


def test_a_run_that_diverged_keeps_the_last_model_that_was_finite(faces, tmp_path):
    run = ["configs/synthetic", *SMALL, f"rec={faces}", "num_classes=None", "num_image=None", "frequent=5"]
    run += ["save_all_states=true", "checkpoint_every=1", "lr=1e9", "grad_clip=0", f"output={tmp_path}/run"]
    ((code, output),) = train(run)
    assert code == 1
    assert ": 5 steps in a row were skipped" in output.splitlines()[-1]
    assert "lower lr" in output.splitlines()[-1]
    step = checkpoint.latest_step(tmp_path / "run/checkpoints")
    assert weights(tmp_path / "run", step)[1]["weight"].isfinite().all()
    model = torch.load(tmp_path / "run/model.pt", weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in model.values())


@pytest.fixture(scope="module")
def of_faulty_disks(faces, tmp_path_factory):
    """Runs that cannot write everything, or have nothing fit to be written: (folder, name -> outcome)."""
    folder = tmp_path_factory.mktemp("faulty")
    run = ["configs/synthetic", *SMALL, f"rec={faces}", "num_classes=None", "num_image=None", "num_workers=0"]
    full = [*run, "save_all_states=true", f"output={folder}/full", "checkpoint_every=3"]
    overflow = [*run, "save_all_states=true", f"output={folder}/overflow", "num_steps=1", "warmup_epoch=0"]
    (folder / "gaps/curves.png").mkdir(parents=True)
    (folder / "gaps/train.log").symlink_to("/dev/full")
    (folder / "gaps/file.7.partial").write_text("left by a run that was killed")
    runs = {  # arguments, largest file
        "start": ([*full, "num_steps=3"], None),
        "no checkpoint": ([*full, "resume=true"], 3_000_000),
        "no model": ([*full, "resume=true"], 700_000),
        "overflow": ([*overflow, "lr=3e38", "grad_clip=0", "loss=arcface", "loss_args={}"], None),
        "gaps": ([*run, f"output={folder}/gaps"], None),
    }
    arguments, largest_files = zip(*runs.values())
    return folder, dict(zip(runs, train(*arguments, largest_files=largest_files)))


def test_a_full_disk_ends_a_save_in_one_line_and_what_was_saved_stays(of_faulty_disks):
    folder, outcomes = of_faulty_disks
    run = folder / "full"
    assert outcomes["start"][0] == 0, outcomes["start"][1]
    assert 700_000 < (run / "model.pt").stat().st_size < 3_000_000
    unfinished = "checkpoints/step_00000006.tmp/shared.pt"
    for name, file in {"no checkpoint": unfinished, "no model": "model.pt"}.items():
        code, output = outcomes[name]
        assert code == 1
        assert output.splitlines()[-1] == f"error: File too large: '{run}/{file}'"
        assert "Traceback" not in output
    assert checkpoint.latest_step(run / "checkpoints") == weights(run, 3)[0]["step"] == 3
    # model.pt comes first: a run that is killed between the two has something left to do.
    model = torch.load(run / "model.pt", weights_only=True)["state_dict"]
    assert not all(torch.equal(model[key], old) for key, old in weights(run, 3)[0]["backbone"].items())
    assert not [path for path in run.rglob("*") if path.suffix in (".tmp", ".partial")]


def test_weights_that_overflowed_in_the_last_step_are_not_saved(of_faulty_disks):
    folder, outcomes = of_faulty_disks
    code, output = outcomes["overflow"]
    assert code == 1
    told = r"error: after step 1, with lr=3e\+38: \S+ holds numbers that are not finite"
    assert re.fullmatch(told, output.splitlines()[-1]), output
    assert not {"model.pt", "checkpoints"} & {path.name for path in (folder / "overflow").iterdir()}


def test_what_cannot_be_logged_or_drawn_costs_no_run(of_faulty_disks):
    folder, outcomes = of_faulty_disks
    code, output = outcomes["gaps"]
    assert code == 0, output
    (told,) = [line for line in output.splitlines() if "cannot write" in line]
    assert "/train.log: No space left on device. Training goes on; logs and pictures will have gaps" in told
    assert "Logging error" not in output
    assert "Traceback" not in output
    assert len(losses(folder / "gaps")) == 6
    assert (folder / "gaps/model.pt").exists()
    assert not (folder / "gaps/report.html").exists()  # report=false
    assert not list((folder / "gaps").glob("*.partial"))


def test_mistakes_are_told_in_one_line(faces, tmp_path):
    def broken(name: str):
        return shutil.copytree(faces, tmp_path / name)

    index_of_other = broken("index_of_other")
    index = (index_of_other / "train.idx").read_text().splitlines()
    (index_of_other / "train.idx").write_text("\n".join(line.replace("\t", "\t9") for line in index) + "\n")
    truncated = broken("truncated")
    with open(truncated / "train.rec", "r+b") as file:
        file.truncate(file.seek(0, 2) * 2 // 3)
    labels = broken("labels")
    (labels / "property").write_text("3,112,112\n")
    few = broken("few")
    images, same = pickle.loads((faces / "pairs.bin").read_bytes())
    (few / "pairs.bin").write_bytes(pickle.dumps((images[:12], same[:6])))
    forbidden = broken("forbidden")
    (forbidden / "pairs.bin").write_bytes(pickle.dumps((os.system, [True])))

    def run(rec, *overrides):
        data = [f"rec={rec}", "num_classes=None", "num_image=None", f"output={tmp_path}/out"]
        return ["configs/synthetic", *SMALL, *data, "save_all_states=false", *overrides]

    cases = {
        "missing folder": (run(tmp_path / "nowhere"), ["nowhere"]),
        "index of another file": (run(index_of_other), ["train.idx"]),
        "truncated record": (run(truncated), ["train.rec"]),
        "label outside the classes": (run(labels), ["3"]),
        "more classes than the config": (run(faces, "num_classes=4"), ["num_classes", "4", "5"]),
        "unknown loss": (run(faces, "loss=arcfase"), ["arcfase", "did you mean 'arcface'"]),
        "unknown loss setting": (run(faces, "loss_args.margin=0.5"), ["margin", "it has"]),
        "unknown regularizer": (run(faces, "regularizers=[ndrr]"), ["ndrr", "did you mean 'ndr'"]),
        "unknown regularizer setting": (run(faces, "regularizers=[(ndr,{wait:1})]"), ["wait", "weight"]),
        "unknown setting of aroface": (run(faces, "aroface={rate:0.5}"), ["rate", "did you mean 'ratio'"]),
        "ratio of aroface": (run(faces, "aroface={ratio:1.5}"), ["ratio=1.5", "[0, 1]"]),
        "unknown network": (run(faces, "network=mbff"), ["mbff", "did you mean 'mbf'"]),
        "unknown key": (run(faces, "bach_size=3"), ["bach_size", "did you mean 'batch_size'"]),
        "wrong type": (run(faces, "batch_size=many"), ["batch_size", "many"]),
        "forbidden pickle": (run(forbidden, "val_targets=[pairs]"), ["pairs.bin", "system"]),
        "too few pairs to score": (run(few, "val_targets=[pairs]"), ["pairs.bin", "10 folds"]),
        "nothing to resume": (run(faces, "resume=true"), ["no checkpoint"]),
        "missing verification set": (run(faces, "val_targets=[pears]"), ["pears", "did you mean 'pairs'"]),
        "unknown config": (["configs/syntetic"], ["syntetic", "did you mean 'synthetic'"]),
        "batch larger than the data": (run(faces, "batch_size=999"), ["999"]),
        "warm-up longer than the run": (run(faces, "warmup_epoch=99"), ["warm-up", "longer than the run"]),
        "diverged": (
            run(faces, "lr=1e9", "grad_clip=0", f"output={tmp_path}/diverged"),
            ["5 steps in a row were skipped", "lower lr"],
        ),
    }
    for name, (code, output) in zip(cases, train(*(arguments for arguments, _ in cases.values()))):
        line = output.strip().splitlines()[-1]
        assert code == 1, f"{name}: exit code {code}, {output}"
        assert line.startswith("error: "), f"{name}: {output}"
        assert "Traceback" not in output, f"{name}: {output}"
        assert all(word in line for word in cases[name][1]), f"{name}: {line}"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"train.log", "run.lock"}, "what an earlier run left there would be overwritten"


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("stop", "last_line"),
    [
        (signal.SIGINT, r"\nstopped by Ctrl-C in step \d+: the checkpoint of step \d+ is kept"),
        (signal.SIGTERM, r"\nstopped by SIGTERM after step \d+ of 100000: resume="),
    ],
)
def test_a_signal_ends_all_ranks_within_seconds_and_checkpoints_stay_whole(faces, tmp_path, stop, last_line):
    arguments = ["configs/synthetic", *SMALL, f"rec={faces}", "num_classes=None", "num_image=None"]
    arguments += ["save_all_states=true", "checkpoint_every=1", "num_steps=100000", f"output={tmp_path}/run"]
    process = torchrun(2, arguments)
    try:
        deadline = time.monotonic() + 90
        while (checkpoint.latest_step(tmp_path / "run/checkpoints") or 0) < 2:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, "no checkpoint within 90 s"
            time.sleep(0.1)
        os.killpg(process.pid, stop)  # what a terminal does on Ctrl-C: every process of the group gets it
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 1
        assert len(re.findall(last_line, output)) == 1, output
        deadline = time.monotonic() + 10
        while group_lives(process.pid):  # the loader's workers notice that their parent is gone
            assert time.monotonic() < deadline, "processes are left"
            time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
    step = checkpoint.latest_step(tmp_path / "run/checkpoints")
    shared, sharded = weights(tmp_path / "run", step)
    assert shared["step"] == step
    assert len(sharded["weight"]) == 5
    assert (tmp_path / "run/PREEMPTED").exists() == (stop == signal.SIGTERM)
