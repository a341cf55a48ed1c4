"""Configs: documented, found by name or path, frozen, printed, recorded."""

import ast
import copy
import importlib
import json
import pickle
import re
import runpy
from pathlib import Path

import pytest
from easydict import EasyDict

import train_v2
from backbones import MODEL_NAMES
from configs import base
from helpers.job_files import MS1MV3_R50, load, write_job
from losses import LOSSES, REGULARIZERS, build_loss, build_perturbation, build_regularizer
from utils import typed_values
from utils.config import find_config, get_config
from utils.run_info import ROOT, write_run_info

PRESETS = sorted({path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "base"})
DEMOS = [name for name in PRESETS if name.startswith("demo_")]
# Data -> its number of people and of images.
PUBLIC_DATA = {
    "casia": (10572, 490623),
    "ms1mv2": (85742, 5822653),
    "ms1mv3": (93431, 5179510),
    "wf4m": (205990, 4235242),
    "wf12m": (617970, 12720066),
}
PUBLISHED = [name for name in PRESETS if name.split("_")[0] in PUBLIC_DATA]
# Presets whose name leaves the method out: ARoFace's own, and the first one here.
METHODS = {
    "ms1mv2_r100": "arcface_aroface",
    "ms1mv3_r100": "arcface_aroface",
    "wf4m_r100": "adaface_aroface",
    "wf12m_r100": "adaface_aroface",
    "casia_r50": "cosface",
}


# ---------------------------------------------------------------- base.py

BASE_SOURCE = Path(base.__file__).read_text()


def documented_settings() -> dict[str, tuple[str, str]]:
    """Setting -> (its default as written, the comment lines above it), read from the source."""
    lines = BASE_SOURCE.splitlines()
    settings = next(node for node in ast.parse(BASE_SOURCE).body if getattr(node, "name", "") == "Settings")
    found = {}
    for node in settings.body:
        if isinstance(node, ast.AnnAssign):
            end = start = node.lineno - 1
            while lines[start - 1].startswith("    # ") and not lines[start - 1].startswith("    # ----"):
                start -= 1
            found[node.target.id] = (ast.unparse(node.value), " ".join(lines[start:end]))
    return found


def test_every_setting_has_a_type_a_default_that_fits_and_a_comment_that_says_what_none_means():
    documented = documented_settings()
    assert list(documented) == list(base.config) == list(base.Settings.__annotations__)
    for name, (default, comment) in documented.items():
        assert len(comment) > 20, f"{name} has no comment"
        assert default != "None" or "None" in comment or "has to be given" in comment, (
            f"{name}: what is None?"
        )
        assert typed_values.fits(base.config[name], base.Settings.__annotations__[name]), name


@pytest.mark.parametrize("columns", [60, 300])
def test_the_page_of_settings_has_every_one_with_type_default_and_comment(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit, match="0"):
        train_v2.parse_command_line(["--settings"])
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= min(columns, 100)
    words = " ".join(page.split())
    for name, (_, comment) in documented_settings().items():
        kind = typed_values.describe(base.Settings.__annotations__[name])
        meaning = " ".join(comment.replace("# ", "").split())
        assert f" {name}={base.config[name]!r} {kind} {meaning}" in words
    assert re.findall("---- (.*?) ----", page) == re.findall("# ---- (.*?) ----", BASE_SOURCE)


def test_base_has_every_setting_of_insightface_or_says_what_serves_instead():
    insightface = (
        "margin_list network resume save_all_states output embedding_size sample_rate fp16 batch_size "
        "interclass_filtering_threshold optimizer lr momentum weight_decay verbose frequent dali dali_aug "
        "gradient_acc seed num_workers wandb_key suffix_run_name using_wandb wandb_entity wandb_project "
        "wandb_log_all save_artifacts wandb_resume notes rec num_classes num_image num_epoch warmup_epoch "
        "val_targets"
    ).split()
    known = {*base.config, *base.INSIGHTFACE_ONLY, *base.WANDB_ONLY}
    assert set(insightface) <= known


# ---------------------------------------------------------------- presets and names


def card(name: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))


def methods(cfg) -> list[str]:
    """The names of loss, regularisers and perturbation of a loaded config."""
    return [cfg.loss, *(name for name, _ in cfg.regularizers), *(["aroface"] if cfg.aroface else [])]


@pytest.mark.parametrize("name", PRESETS)
def test_preset_loads_from_anywhere_and_has_an_experiment_card(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = get_config(name)
    assert cfg.name == name
    assert cfg.output == str(ROOT / "work_dirs" / name)
    assert cfg.rec == "synthetic" or cfg.rec.startswith(str(ROOT / "data"))
    assert f"train_v2.py configs/{name} " in card(name).replace("\n", " ")
    assert "Hardware:" in card(name)
    assert "Measured by us" in card(name)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_builds_its_loss_regularizers_and_perturbation_with_its_settings(name):
    cfg = get_config(name)
    assert cfg.network in MODEL_NAMES
    built = [build_loss(cfg.loss, **cfg.loss_args)]
    built += [build_regularizer(term, **hyper) for term, hyper in cfg.regularizers]
    built += [build_perturbation(**cfg.aroface)] if cfg.aroface is not None else []
    assert len(built) == len(methods(cfg))


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_of_public_data_is_what_its_name_says_and_tells_the_published_numbers(name):
    cfg = get_config(name)
    data, network, *method = name.split("_")
    assert (cfg.num_classes, cfg.num_image) == PUBLIC_DATA[data]
    assert cfg.network == {"ir50": "ir_50", "r50": "ir_50", "ir101": "ir_101", "r100": "r100"}[network]
    assert "_".join(methods(cfg)) == ("_".join(method) or METHODS[name])
    published = card(name).split("Published", 1)[1].split("Measured")[0]
    assert re.search(r"\d\d\.\d", published)
    assert "Source:" in card(name)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "_r100" in name])
def test_large_presets_train_as_aroface_does_on_four_gpus(name):
    cfg = get_config(name)
    assert 4 * cfg.batch_size * cfg.gradient_acc == 2048
    assert cfg.lr * 2048 / cfg.lr_reference_batch == pytest.approx(0.2)
    assert (cfg.optimizer, cfg.momentum, cfg.weight_decay, cfg.scheduler) == ("sgd", 0.9, 5e-4, "poly")
    assert (cfg.poly_power, cfg.warmup_epoch, cfg.grad_clip, cfg.precision) == (1, 0, 5, "fp16")
    assert cfg.num_epoch == (28 if name.startswith("ms1mv2") else 20)
    assert cfg.aroface is None or (cfg.aroface.ratio, cfg.aroface.steps) == (0.75, 1)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "_r100" not in name])
def test_small_presets_train_as_adaface_does_on_four_gpus(name):
    cfg = get_config(name)
    assert 4 * cfg.batch_size * cfg.gradient_acc == 512
    assert cfg.lr * 512 / cfg.lr_reference_batch == pytest.approx(0.1)
    assert (cfg.scheduler, cfg.milestones, cfg.lr_decay) == ("multistep", (12, 20, 24), 0.1)
    assert (cfg.weight_decay, cfg.no_decay_norm_bias, cfg.precision) == (5e-4, True, "fp16")
    assert (cfg.crop_prob, cfg.low_res_prob, cfg.photometric_prob) == (0.2, 0.2, 0.2)
    assert cfg.num_epoch == (40 if name.startswith("casia_ir50") else 26)


def test_each_loss_regularizer_and_aroface_has_its_demo():
    taught = {name: methods(get_config(name)) for name in DEMOS}
    assert set(taught) == {f"demo_{name}" for name in [*LOSSES, *REGULARIZERS, "aroface"]}
    for name, (loss, *added) in taught.items():
        method = name[len("demo_") :]
        assert [loss, *added] == ([method] if method in LOSSES else ["cosface", method])


@pytest.mark.parametrize("name", DEMOS)
def test_demos_differ_in_the_loss_alone_and_those_of_additions_in_the_addition_alone(name):
    cfg = get_config(name)
    of_loss = name[len("demo_") :] in LOSSES
    other = get_config("demo_softmax" if of_loss else "demo_cosface")
    allowed = {"loss", "loss_args"} if of_loss else {"regularizers", "aroface"}
    assert {key for key in cfg if cfg[key] != other[key]} <= {"name", "output"} | allowed


def test_a_preset_leaves_the_one_that_it_builds_on_as_it_is():
    for name in PRESETS:
        get_config(name)
    for name in PRESETS:
        imported = importlib.import_module(f"configs.{name}").config
        assert imported == runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["config"], name


def test_defaults_stay_where_a_file_has_changed_base_in_place(monkeypatch):
    monkeypatch.setattr(base.config, "lr", 7.0)
    assert load().lr == 0.1
    assert "* lr " not in str(load())


@pytest.mark.parametrize(
    "spelling", ["synthetic", "synthetic.py", "configs/synthetic", "configs/synthetic.py"]
)
def test_a_config_is_found_by_name_with_or_without_folder_and_suffix(spelling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(spelling) == ROOT / "configs" / "synthetic.py"


def test_a_config_is_any_file(tmp_path, monkeypatch):
    path = write_job(tmp_path, MS1MV3_R50, "mine.py")
    assert get_config(path).name == "mine"
    assert get_config(str(path.with_suffix(""))).network == "r50"
    monkeypatch.chdir(path.parent)
    assert get_config("mine.py").network == "r50"


def test_a_missing_config_names_the_near_miss():
    with pytest.raises(
        FileNotFoundError, match="'configs/ms1mv2_r10' does not exist; did you mean 'ms1mv2_r100'"
    ):
        get_config("configs/ms1mv2_r10")


@pytest.mark.parametrize("module", ["configs.base", ".base"])
def test_a_config_may_change_what_it_imports_without_changing_it_for_others(tmp_path, module):
    path = write_job(
        tmp_path,
        f"from {module} import config\nconfig.rec = '/data'\nconfig.lr = 0.25\nconfig.loss_args.m = 0.3\n",
    )
    for _ in range(2):
        cfg = get_config(path)
        assert (cfg.lr, cfg.loss_args) == (0.25, {"m": 0.3})
    assert base.config.lr == 0.1
    assert load().loss_args == {}


def test_a_config_may_build_on_a_preset(tmp_path):
    cfg = get_config(write_job(tmp_path, "from configs.casia_r50 import config\nconfig.lr = 0.3\n"))
    assert (cfg.name, cfg.lr, cfg.network) == ("job", 0.3, "ir_50")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = 3", "defines no EasyDict named config"),
        ("x = 1", "defines no EasyDict named config"),
        ("x = 1\ny = undefined\n", "line 2: NameError: name 'undefined'"),
        ("config = edict(\n", "line 1: SyntaxError"),
    ],
)
def test_a_broken_config_file_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        get_config(write_job(tmp_path, text))
    assert "job.py" in str(caught.value)


# ---------------------------------------------------------------- the loaded config


def test_a_loaded_config_is_frozen_all_the_way_down():
    cfg = load("loss_args.m=0.4", "network_args={a:[{b:1}]}")
    for change in (
        lambda: setattr(cfg, "lr", 1),
        lambda: cfg.__setitem__("lr", 1),
        lambda: cfg.update(lr=1),
        lambda: cfg.pop("lr"),
        lambda: cfg.popitem(),
        lambda: cfg.clear(),
        lambda: cfg.setdefault("new", 1),
        lambda: cfg.__ior__({"lr": 1}),
        lambda: cfg.__delitem__("lr"),
        lambda: delattr(cfg, "lr"),
        lambda: setattr(cfg.loss_args, "m", 1),
        lambda: setattr(cfg.network_args.a[0], "b", 2),
    ):
        with pytest.raises(TypeError, match="frozen"):
            change()
    assert (cfg.lr, cfg.loss_args.m, cfg.network_args.a[0].b) == (0.1, 0.4, 1)
    assert isinstance(cfg.val_targets, tuple)
    assert isinstance(cfg, EasyDict)


def test_reading_a_setting_that_does_not_exist_names_the_near_miss():
    with pytest.raises(AttributeError, match="no setting 'batchsize'; did you mean 'batch_size'"):
        _ = load().batchsize


def test_a_config_travels_to_other_processes():
    cfg = load("loss_args.m=0.4")
    for other in (pickle.loads(pickle.dumps(cfg)), copy.deepcopy(cfg)):
        assert other == cfg
        assert type(other) is type(cfg)
        assert other.loss_args.m == 0.4


def test_the_table_is_aligned_and_marks_what_differs_from_base():
    title, *rows = str(load("lr=0.2", "batch_size=128", "precision=bf16")).splitlines()
    assert title.startswith("config synthetic")
    marks = {row[2:].split()[0]: row[0] for row in rows}
    assert list(marks) == ["name", *base.config]
    assert {key for key, mark in marks.items() if mark == "*"} == {
        "rec", "num_classes", "num_image", "precision", "channels_last", "num_steps", "save_all_states", "lr",
    }  # fmt: skip
    column = max(map(len, marks)) + 4
    assert all(row[column - 1] == " " and row[column] != " " for row in rows)


def test_run_info_holds_config_code_and_machine(tmp_path):
    cfg = load("loss_args.m=0.4")
    write_run_info(tmp_path / "run", cfg, world_size=2, global_batch=256)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config == json.loads(json.dumps(cfg))
    assert config["loss_args"] == {"m": 0.4}
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["world_size"], run["global_batch"]) == (2, 256)
    assert {"torch", "numpy", "python"} <= run["versions"].keys()
    assert run["hardware"]["cores"] >= 1
    assert run["hardware"]["memory_mib"] > 100
    assert run["git"].keys() == {"commit", "dirty"}
    assert run["command"]
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["config.json", "run.json"]
