"""What a run may change when it goes on from a checkpoint, what not, and what is said of it."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.base import MAY_CHANGE_ON_RESUME, MAY_DIFFER_BETWEEN_RANKS, SAME_RESULT_ON_RESUME, Settings
from dataset import RecordDataset, SyntheticDataset
from helpers.job_files import load
from helpers.ranks import run_ranks
from helpers.records import write_rec
from training import identity
from training.identity import CHANGEABLE, NOT_KEPT, RunIdentity, compare_settings, content_of_files
from training.lr_scheduler import Schedule
from utils.distributed import rank
from utils.logging import LOGGER_NAME
from utils.run_info import ROOT

FOLDER = Path("run/checkpoints")
MEASURED = ("num_classes", "num_image", "global_batch")  # kept as they are, not as the settings say


def an_identity(*overrides: str, dataset=None) -> RunIdentity:
    cfg = load("rec=synthetic", "num_classes=5", "num_image=100", "batch_size=4", "num_steps=8", *overrides)
    dataset = dataset or SyntheticDataset(5, 100)
    schedule = Schedule(cfg, len(dataset) // cfg.batch_size, cfg.batch_size)
    return RunIdentity(cfg, dataset, schedule, cfg.batch_size * cfg.gradient_acc)


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def go_on(saved: dict, run: RunIdentity) -> list[str]:
    """What is logged when `run` goes on from a checkpoint that kept `saved`."""
    logger, handler = logging.getLogger(LOGGER_NAME), Lines()
    level = logger.level
    logger.setLevel(logging.INFO), logger.addHandler(handler)
    try:
        run.compare_with(saved, FOLDER, 4)
    finally:
        logger.setLevel(level), logger.removeHandler(handler)
    return handler.lines


def as_loaded(run: RunIdentity, tmp_path) -> dict:
    torch.save(run.state_dict(lr=0.25), tmp_path / "shared.pt")
    return torch.load(tmp_path / "shared.pt", weights_only=True)


def test_the_same_run_goes_on_without_a_word(tmp_path):
    saved = as_loaded(an_identity("regularizers=[ndr]", "aroface={}", "margin_list=1,0.4,0"), tmp_path)
    again = an_identity("regularizers=[ndr]", "aroface={}", "margin_list=1,0.4,0", "resume=true")
    assert go_on(saved, again) == []


@pytest.mark.parametrize("name", sorted(Settings.__annotations__))
def test_a_setting_may_change_or_is_an_error_that_names_it(name, tmp_path):
    saved, run = as_loaded(an_identity(), tmp_path), an_identity()
    if name in NOT_KEPT:
        assert name not in saved["changeable"]
        assert name not in saved["fixed"] or name in MEASURED
        return
    saved["changeable" if name in CHANGEABLE else "fixed"][name] = "another"
    if name in CHANGEABLE:
        (line,) = go_on(saved, run)
        assert line.startswith(f"changed since the checkpoint: {name} another -> ")
    else:
        with pytest.raises(ValueError, match=f"is of a run with {name} another, this one has"):
            go_on(saved, run)


def test_the_tables_name_settings_and_no_setting_twice():
    names = " ".join([*MAY_CHANGE_ON_RESUME.values(), *SAME_RESULT_ON_RESUME.values()]).split()
    assert len(names) == len(set(names))
    assert set(names) | set(MAY_DIFFER_BETWEEN_RANKS) <= Settings.__annotations__.keys()


def test_the_docs_list_what_may_change():
    text = (ROOT / "docs" / "reliability.md").read_text()
    tables = [dict(re.findall(r"^\| (.+?) \| (`.+`) \|$", part, re.M)) for part in text.split("no result")]
    found = [{what: names.replace("`", "") for what, names in table.items()} for table in tables]
    assert found == [MAY_CHANGE_ON_RESUME, SAME_RESULT_ON_RESUME]


def test_a_part_of_a_setting_and_the_global_batch_are_named(tmp_path):
    saved = as_loaded(an_identity("loss=cosface", "loss_args.m=0.3"), tmp_path)
    with pytest.raises(ValueError, match=r"run with loss_args.m 0.3, this one has 0.4: step 4 would not be"):
        go_on(saved, an_identity("loss=cosface", "loss_args.m=0.4"))
    with pytest.raises(ValueError, match=r"run with loss cosface, .*; global_batch 4, this one has 8: step"):
        go_on(saved, an_identity("batch_size=8"))
    half = an_identity("loss=cosface", "loss_args.m=0.3", "batch_size=2", "gradient_acc=2")
    (line,) = go_on(saved, half)
    assert line == "changed since the checkpoint: batch_size 4 -> 2, gradient_acc 1 -> 2"


def test_other_data_of_equal_length_is_refused(tmp_path):
    def run(name: str, labels: list[int], images=None) -> RunIdentity:
        return an_identity(dataset=RecordDataset(write_rec(tmp_path / name, labels, images)))

    saved = as_loaded(run("first", [0, 1, 2, 3, 4]), tmp_path)
    assert go_on(saved, run("copy", [0, 1, 2, 3, 4])) == []
    with pytest.raises(ValueError, match=r"is of a run with labels sha256 \w+, this one has sha256"):
        go_on(saved, run("labels", [0, 1, 2, 4, 3]))
    longer = {0: (tmp_path / "first/train.idx").read_bytes()}
    with pytest.raises(ValueError, match=r"is of a run with images sha256"):
        go_on(saved, run("images", [0, 1, 2, 3, 4], longer))
    with pytest.raises(ValueError, match=r"is of a run with num_image 5, this one has 6"):
        go_on(saved, run("more", [0, 1, 2, 3, 4, 4]))


WEIGHTS = {  # by what they are: what is named in the config, and the file in which they differ
    "a file": ("model.pt", "model.pt"),
    "arcface_torch's files of ranks": ("checkpoint_gpu_0.pt", "checkpoint_gpu_1.pt"),
    "checkpoints": ("checkpoints", "checkpoints/step_00000004/manifest.json"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_to_start_from_are_known_by_their_content_wherever_they_lie(kind, tmp_path):
    named, changed = WEIGHTS[kind]
    for folder in ("here", "moved", "other"):
        for file in {named, changed} - {"checkpoints"}:
            (tmp_path / folder / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / file).write_text(f"{file} {folder == 'other' and file == changed}")
    for name in ("pretrained", "teacher", "init_head"):
        cfg = dict(pretrained=None, teacher=None, init_head="random")
        here, moved, other = (
            content_of_files(cfg | {name: str(tmp_path / folder / named)})
            for folder in ("here", "moved", "other")
        )
        assert here == moved
        assert {key for key in here if here[key] != other[key]} == {f"content of {name}"}


def test_a_run_is_told_by_the_weights_that_it_starts_from(tmp_path):
    (tmp_path / "a.pt").write_text("weights")
    fixed = an_identity(f"pretrained={tmp_path}/a.pt").fixed
    assert fixed["content of pretrained"].startswith("crc32 ")
    assert fixed["content of init_head"] == "random"


def test_another_length_says_what_happens_to_the_schedule(tmp_path):
    saved = as_loaded(an_identity("lr=0.4"), tmp_path)
    changed, schedule = go_on(saved, an_identity("lr=0.4", "num_steps=16"))
    assert changed == "changed since the checkpoint: num_steps 8 -> 16"
    assert schedule == (
        "the run has 16 steps instead of 8: the learning rate goes on as in such a run, with 0.3 in step 5 "
        "after 0.25 in step 4"
    )


def test_other_code_is_a_warning(tmp_path, monkeypatch):
    saved = as_loaded(an_identity(), tmp_path)
    monkeypatch.setattr(identity, "code_version", lambda: {"code": "sha256 new", "torch": "3.0"})
    (line,) = go_on(saved, an_identity())
    assert re.fullmatch(r"changed since the checkpoint: code sha256 \w+ -> sha256 new, torch .* -> 3.0", line)


def test_an_older_checkpoint_goes_on_with_a_word():
    older = {"fixed": {"global_batch": 4, "num_image": 100, "loss": "arcface"}}
    (line,) = go_on(older, an_identity())
    assert line.startswith("the checkpoint is an older one")
    with pytest.raises(ValueError, match="is of a run with loss arcface, this one has cosface"):
        go_on(older, an_identity("loss=cosface"))
    assert go_on({}, an_identity()) == [line]  # the first ones kept nothing


def test_a_setting_that_came_later_was_at_its_default(tmp_path):
    saved = as_loaded(an_identity(), tmp_path)
    for part, name in (("fixed", "dropout"), ("changeable", "grad_clip")):
        del saved[part][name]
    assert go_on(saved, an_identity()) == []
    with pytest.raises(ValueError, match=r"is of a run with dropout 0.0, this one has 0.5"):
        go_on(saved, an_identity("dropout=0.5"))
    saved["fixed"]["a_setting_of_once"] = 1
    assert go_on(saved, an_identity()) == []


# ---------------------------------------------------------------- between ranks


def told(compare, *args) -> str:
    try:
        compare(*args)
    except ValueError as error:
        return str(error)
    return "fine"


def each_setting_on_rank_1() -> dict[str, str]:
    cfg = dict(load())
    return {key: told(compare_settings, cfg | ({key: "another"} if rank() else {})) for key in cfg}


def data_of_ranks() -> dict[str, str]:
    same, images = np.array([True, False] * 5), np.zeros((20, 2, 2, 3), np.uint8)
    sets, run = {"lfw": (images, same)}, an_identity()
    classes = an_identity(dataset=SyntheticDataset(5 + rank(), 100))
    return {
        "equal": told(run.compare_ranks, sets),
        "classes": told(classes.compare_ranks, sets),
        "pairs": told(run.compare_ranks, {"lfw": (images, same[: 10 - rank()])}),
        "images": told(run.compare_ranks, {"lfw": (images + np.uint8(rank()), same)}),
        "set": told(run.compare_ranks, sets if rank() else {}),
    }


def both() -> tuple[dict, dict]:
    return each_setting_on_rank_1(), data_of_ranks()


def test_every_setting_and_all_data_are_compared_between_ranks():
    for settings, data in run_ranks(2, both):
        assert settings.keys() >= Settings.__annotations__.keys()
        for key, line in settings.items():
            may_differ = key in MAY_DIFFER_BETWEEN_RANKS or key == "name"
            assert line.startswith("fine" if may_differ else f"rank 1 has {key} another, rank 0 has "), line
        begins = {
            "equal": "fine",
            "classes": "rank 1 has num_classes 6, rank 0 has 5",
            "pairs": "rank 1 has verification set lfw.pairs 9, rank 0 has 10",
            "images": "rank 1 has verification set lfw.content sha256",
            "set": "rank 1 has verification set lfw ",
        }
        assert all(data[name].startswith(begin) for name, begin in begins.items()), data
