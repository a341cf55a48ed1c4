"""Configs: documented, found by name or path, frozen, printed, recorded."""

import ast
import copy
import json
import pickle
import re
from pathlib import Path

import pytest
from easydict import EasyDict

import train_v2
from configs import base
from helpers.job_files import MS1MV3_R50, load, write_job
from utils import settings, typed_values
from utils.config import find_config, get_config, verification_files
from utils.frozen import to_builtin
from utils.run_info import ROOT, write_run_info

# ---------------------------------------------------------------- base.py

BASE_SOURCE = Path(base.__file__).read_text()


def documented_settings() -> dict[str, tuple[str, str]]:
    """Setting -> (its default as written, the comment lines above it), read from the source."""
    lines = BASE_SOURCE.splitlines()
    declared = next(node for node in ast.parse(BASE_SOURCE).body if getattr(node, "name", "") == "Settings")
    found = {}
    for node in declared.body:
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


# ---------------------------------------------------------------- files


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


def test_the_table_is_aligned_and_marks_what_differs_from_base(monkeypatch):
    monkeypatch.setattr(settings, "channels_last_is_faster", lambda network, precision: False)
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


@pytest.mark.parametrize(
    "preset", sorted(f.stem for f in (ROOT / "configs").glob("[a-z]*.py") if f.stem != "base")
)
def test_the_config_json_of_a_run_runs_it_again_in_a_folder_of_its_own(preset, tmp_path):
    first = to_builtin(get_config(preset, [f"output={tmp_path}/run", "rec=/data/faces"]))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(first))
    again = to_builtin(get_config(file))
    assert again["output"] == f"{tmp_path}/run_again"
    assert json.loads(json.dumps(again | {"output": 0})) == json.loads(json.dumps(first | {"output": 0}))
    assert get_config(file, ["lr=0.125"]).lr == 0.125


@pytest.mark.parametrize(
    ("preset", "override", "precision"),
    [
        ("demo", "fp16=true", "fp16"),  # which says precision="auto"
        ("demo", "fp16=false", "fp32"),
        ("ms1mv2_r100", "precision=bf16", "bf16"),  # which says fp16=True
        ("ms1mv2_r100", "precision=fp32", "fp32"),
    ],
)
def test_either_name_of_the_precision_replaces_what_a_file_says_by_the_other(
    preset, override, precision, tmp_path
):
    (tmp_path / "config.json").write_text(json.dumps(to_builtin(get_config(preset, ["rec=/data/faces"]))))
    for file in (preset, tmp_path / "config.json"):
        cfg = get_config(file, ["rec=/data/faces", override])
        assert (cfg.precision, cfg.fp16) == (precision, precision == "fp16")


def test_a_run_again_goes_on_without_a_verification_set_that_is_gone(tmp_path):
    first = get_config("demo", [f"output={tmp_path}/run", f"rec={tmp_path}", "val_targets=[gone]"])
    with pytest.raises(FileNotFoundError, match="gone"):
        verification_files(first)
    (tmp_path / "config.json").write_text(json.dumps(to_builtin(first)))
    assert verification_files(get_config(tmp_path / "config.json")) == {}
    with pytest.raises(FileNotFoundError, match="gone"):
        verification_files(get_config(tmp_path / "config.json", ["val_targets=[gone]"]))


@pytest.mark.parametrize("content", ["[1]", "{}", '{"name": "x"}', "no json"])
def test_a_json_file_that_no_run_has_written_is_told(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"is no config\.json of a run"):
        get_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    "override", ["loss_args." + "a." * 600 + "b=1", "loss_args=" + "{a:" * 600 + "1" + "}" * 600]
)
def test_an_override_that_is_600_deep_is_one_clear_line(override):
    with pytest.raises(ValueError, match=r"more than 16 parts|nested more than 16 deep"):
        get_config("demo", [override])
