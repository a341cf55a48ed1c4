"""The state of the repository, as runs write it down."""

import json
import re
import subprocess

from helpers.imports import ROOT, imports, modules
from helpers.job_files import load
from utils import run_info


def test_changed_files_make_the_repository_dirty_and_new_ones_do_not(tmp_path, monkeypatch):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(run_info, "ROOT", tmp_path)
    assert run_info.git_state() == {"commit": None, "dirty": None}
    (tmp_path / "code.py").write_text("1\n")
    git("init"), git("add", "code.py"), git("commit", "-m", "first")
    state = run_info.git_state()
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "results.json").write_text("{}\n")  # such as an evaluation's
    assert run_info.git_state() == state
    (tmp_path / "code.py").write_text("2\n")
    assert run_info.git_state() == state | {"dirty": True}


def test_code_is_told_apart_by_the_files_that_compute_a_step(tmp_path, monkeypatch):
    real = run_info.code_version()
    assert re.fullmatch("sha256 [0-9a-f]{12}", real["code"])
    monkeypatch.setattr(run_info, "ROOT", tmp_path)
    (tmp_path / "losses").mkdir(), (tmp_path / "tests").mkdir()
    versions = [real["code"]]
    for change in ("train_v2.py 1", "train_v2.py 2", "losses/a.py 2", "losses/b.py 2"):
        name, text = change.split()
        (tmp_path / name).write_text(text)
        versions.append(run_info.code_version()["code"])
    assert len(set(versions)) == len(versions)
    (tmp_path / "tests/test_a.py").write_text("3")
    (tmp_path / "README.md").write_text("3")
    assert run_info.code_version()["code"] == versions[-1]


def test_every_module_that_train_v2_reaches_counts_as_code():
    known = modules(file for file in ROOT.glob("**/*.py") if ".venv" not in file.parts)
    reached, new = set(), {"train_v2"}
    while new:
        reached |= new
        new = {other for module in new for other in imports(module, known)} - reached
    counted = {path for pattern in run_info.CODE for path in ROOT.glob(pattern)}
    missing = {module for module in reached if known[module] not in counted}
    assert {module.split(".")[0] for module in missing} == {
        "configs",  # settings are compared one by one
        "reports",  # computes no step
    }


def test_the_records_of_earlier_parts_of_a_run_are_kept(tmp_path):
    for part in range(3):
        run_info.write_run_info(tmp_path, load(f"seed={part}"), keep_earlier=part > 0, first_step=part)
    names = ["0001.", "0002.", ""]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{number}json" for name in ("config", "run") for number in names
    }
    for part, number in enumerate(names):
        assert json.loads((tmp_path / f"config.{number}json").read_text())["seed"] == part
        assert json.loads((tmp_path / f"run.{number}json").read_text())["first_step"] == part
    run_info.write_run_info(tmp_path, load("seed=9"))  # not a part of that run: it begins anew
    assert len(list(tmp_path.iterdir())) == 6
