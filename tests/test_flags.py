"""The options of the scripts reach what they are for, and none is forgotten by tests and docs."""

import json
import re

import cv2
import numpy as np
import pytest

from dataset import RecordDataset
from eval import eval_robustness, eval_survface, eval_tinyface
from helpers.evaluation_runs import BINS, ROOT, save_small_model
from helpers.records import picture, png, write_rec
from helpers.tinysurv_trees import run_here, write_survface, write_tinyface
from tools import export, inspect_rec, make_rec

SCRIPTS = [*(ROOT / "tools").glob("*.py"), *(ROOT / "eval").glob("*.py")]
FLAGS = {
    (script.stem, flag)
    for script in SCRIPTS
    for flag in re.findall(r'\badd(?:_argument)?\(\s*"(--[\w-]+)"', script.read_text())
}


def test_every_option_is_used_by_a_test_or_by_a_command_that_is_run():
    commands = [
        line
        for page in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "Makefile"]
        for line in page.read_text().splitlines()
        if line.startswith(("    ", "\t"))
    ]
    used = "\n".join([*commands, *(test.read_text() for test in (ROOT / "tests").rglob("*.py"))])
    missing = [pair for pair in sorted(FLAGS) if not re.search(rf"{pair[1]}(?![\w-])", used)]
    assert len(FLAGS) > 100
    assert not missing, f"no test or command uses {missing}"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "model.pt")


@pytest.mark.parametrize(
    ("main", "write", "option"),
    [
        (eval_tinyface.main, write_tinyface, "--aligned"),
        (eval_survface.main, write_survface, "--aligned"),
        (eval_survface.main, write_survface, "--verification-images"),
    ],
)
def test_another_folder_of_images_is_the_one_that_is_read(main, write, option, tmp_path, monkeypatch, model):
    tree = write(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        run_here(monkeypatch, main, "--model", model, "--data", tree, option, tmp_path / "nowhere")


@pytest.mark.parametrize("tool", [eval_tinyface, export])
def test_a_colour_order_that_the_file_contradicts_is_an_error(tool, tmp_path, monkeypatch, model):
    words = {
        eval_tinyface: ["--data", write_tinyface(tmp_path)],
        export: ["--out", tmp_path / "a.torchscript"],
    }
    with pytest.raises(ValueError, match="takes RGB, not BGR"):
        run_here(monkeypatch, tool.main, "--model", model, *words[tool], "--input-order", "BGR")


def test_one_side_is_told_in_the_results(tmp_path, monkeypatch, model):
    words = ["--model", model, "--data", BINS / "py2.bin", "--only", "resolution=10", "--pairs", 20]
    run_here(monkeypatch, eval_robustness.main, *words, "--one-side", "--out", tmp_path / "out", "--no-cache")
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert settings["perturbed"] == "the second image of a pair"


@pytest.mark.parametrize("more", [[], ["--no-check"]])
def test_what_was_written_is_run_unless_that_is_forbidden(more, tmp_path, monkeypatch, model):
    asked = []
    monkeypatch.setattr(export, "torchscript_output", lambda path: asked.append(path) or wrong)

    def wrong(images):
        return np.ones((len(images), 32))

    words = ["--model", model, "--out", tmp_path / "face.torchscript", *more]
    if more:
        run_here(monkeypatch, export.main, *words)
    else:
        with pytest.raises(ValueError, match="differ"):
            run_here(monkeypatch, export.main, *words)
    assert (len(asked), (tmp_path / "face.torchscript").exists()) == ((0, True) if more else (1, False))


def test_a_sheet_has_as_many_columns_as_asked_for(tmp_path, monkeypatch):
    rec, sheet = write_rec(tmp_path, [0, 0, 0]), tmp_path / "a.png"
    widths = []
    for columns in (1, 2):
        run_here(monkeypatch, inspect_rec.main, rec, "--sheet", sheet, "--columns", columns)
        widths.append(cv2.imread(str(sheet)).shape[1])
    assert widths[1] - widths[0] == 112 + inspect_rec.GAP


def test_paths_of_a_list_begin_at_the_root_that_is_named(tmp_path, monkeypatch):
    (tmp_path / "faces").mkdir()
    for i in range(2):
        (tmp_path / "faces" / f"{i}.png").write_bytes(png(picture(i)))
    (tmp_path / "list.csv").write_text("path,identity\n0.png,ann\n1.png,bob\n")
    words = ["--images", tmp_path / "list.csv", "--out", tmp_path / "rec", "--workers", 0]
    run_here(monkeypatch, make_rec.main, *words, "--root", tmp_path / "faces")
    assert len(RecordDataset(tmp_path / "rec")) == 2
