"""The page of a run and the comparison of runs: what the files say stands there, of unfinished runs too."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from dataset import SyntheticDataset
from reports.comparison import comparison_page, names_of, results_table, settings_table
from reports.curves import series_of
from reports.run_files import differing, read_run
from reports.run_page import run_page, write_run_page
from training import hard_samples, run_report
from training.hard_samples import HardSamples
from training.hints import hints
from training.run_report import RunReport
from utils.config import get_config
from utils.frozen import to_builtin
from utils.logging import RunLog
from utils.progress import here
from utils.run_info import ROOT


def write_run(folder, *, steps=20, accuracy=0.8, **settings):
    """The folder of a run on random images that is to have 20 steps."""
    folder.mkdir(parents=True)
    overrides = [f"{name}={value}" for name, value in settings.items()]
    config = to_builtin(get_config("configs/synthetic", [f"output={folder}", *overrides]))
    (folder / "config.json").write_text(json.dumps(config))
    facts = {"num_image": 96, "num_classes": 10, "global_batch": 8, "world_size": 2, "num_steps": 20}
    facts |= {"parameters": 1_500_000, "command": "train_v2.py <configs>", "hardware": {"gpus": ["H100"]}}
    (folder / "run.json").write_text(json.dumps(facts))
    lines = [
        {"kind": "train", "step": s, "epoch": s / 12, "loss": 9 - s / 4, "lr": 0.1, "images_per_second": 50.0}
        | {"ce": 8 - s / 4, "disc": 0.5, "norm": 11.5, "own_cosine": None if s == 3 else 0.25}
        for s in range(1, steps + 1)
    ]
    for step, value in ((steps // 2, accuracy + 0.1), (steps, accuracy)):
        lines.append({"kind": "eval", "step": step, "set": "lfw", "accuracy": value, "accuracy_std": 0.01})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    return folder


def text_of(html):
    """What a reader sees, pictures left out."""
    without = re.sub(r"<style>.*?</style>|data:[^\"]*", " ", html, flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", without).split())


def test_the_page_tells_what_ran_how_far_and_what_came_out(tmp_path):
    folder = write_run(tmp_path / "tiny", steps=12, lr=0.37)
    html = run_page(read_run(folder)).html()
    text = text_of(html)
    assert "train_v2.py &lt;configs&gt;" in text
    assert "12 of 20 steps (not finished), 1.0 epochs" in text
    assert "last loss 6.000" in text
    assert "96 images, 10 identities" in text
    assert "1.5 million parameters" in text
    assert "H100" in text
    assert "lfw 80.00 90.00 6" in text  # the last accuracy, the best one and its step
    for title in ("Loss", "Learning rate", "Cross-entropy (ce)", "Logged as disc", "Verification"):
        assert title in text
    assert "lr 0.37" in text.split("differ from configs/base.py")[1].split("All settings")[0]


def test_the_page_asks_for_nothing_outside_itself(tmp_path):
    html = run_page(read_run(write_run(tmp_path / "tiny"))).html()
    sources = re.findall(r"(?:src|href)\s*=\s*\"?([^\" >]{5})", html)
    assert sources
    assert all(source == "data:" for source in sources)
    assert "<script" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_a_run_in_parts_shows_what_changed_between_them(tmp_path):
    folder = write_run(tmp_path / "tiny", lr=0.5)
    earlier = json.loads((folder / "config.json").read_text()) | {"lr": 0.25}
    (folder / "config.0001.json").write_text(json.dumps(earlier))
    text = text_of(run_page(read_run(folder)).html())
    assert "The run has 2 parts" in text
    assert "lr 0.25 0.5" in text


def test_a_run_before_its_first_logged_step_has_a_page(tmp_path):
    folder = write_run(tmp_path / "tiny")
    (folder / "metrics.jsonl").write_text("")
    (folder / "run.json").unlink()
    write_run_page(folder, tmp_path / "x.html")
    assert "No step has been logged yet" in text_of((tmp_path / "x.html").read_text(encoding="utf-8"))


def test_what_is_no_run_is_told_with_what_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no config.json and no metrics.jsonl"):
        read_run(tmp_path)


def test_a_curve_keeps_its_last_value_and_has_a_gap_where_a_value_is_null():
    lines = [{"step": s, "loss": None if s == 9 else float(s)} for s in range(10_001)]
    curve = series_of(lines, "loss")
    assert curve.steps[-1] == 10_000
    assert curve.values[-1] == 10_000
    assert len(curve.steps) <= 1500
    assert np.isnan(series_of(lines[:20], "loss").values[9])


def test_runs_are_compared_by_what_differs_in_them_and_what_came_out(tmp_path):
    runs = [
        read_run(write_run(tmp_path / "a" / "x", lr=0.5)),
        read_run(write_run(tmp_path / "b" / "x", lr=0.25, accuracy=0.7, steps=10)),
    ]
    assert names_of(runs) == ["a/x", "b/x"]
    table = settings_table(runs)
    assert [row for row in table.rows if row[0] == "lr"] == [["lr", "0.5", "0.25"]]
    assert not [row for row in table.rows if row[0] in ("output", "name", "batch_size")]
    first, second = results_table(runs).rows
    assert first == ["a/x", "20 of 20", "4.000", "50", "80.00 (90.00)"]
    assert second == ["b/x", "10 of 20", "6.500", "50", "70.00 (80.00)"]
    text = text_of(comparison_page(runs).html())
    assert "Verification accuracy, lfw" in text
    assert "lr 0.5 0.25" in text
    with pytest.raises(ValueError, match="named twice"):
        names_of([runs[0], runs[0]])


def test_parts_of_a_setting_are_compared_one_by_one():
    settings = {"a": {"loss_args": {"m": 0.4, "s": 64}}, "b": {"loss_args": {"m": 0.5, "s": 64}}}
    assert differing(settings) == {"loss_args.m": [0.4, 0.5]}
    settings = {"a": {"loss_args": {"m": 0.4}}, "b": {"loss_args": {}}}
    assert differing(settings) == {"loss_args.m": [0.4, None]}


def test_what_says_the_same_in_other_words_is_no_difference():
    """`python train_v2.py RUN/config.json` leaves out margin_list, which stands in loss_args."""
    same = {"loss": "combined", "loss_args": {"margin_list": [1.0, 0.0, 0.4]}}
    assert not differing({"a": same | {"margin_list": [1.0, 0.0, 0.4], "resume": True}, "b": same})


def test_long_settings_of_a_run_in_parts_stay_on_the_page(tmp_path):
    folder = write_run(tmp_path / "tiny")
    earlier = json.loads((folder / "config.json").read_text()) | {"rec": "/a/long/folder"}
    (folder / "config.0001.json").write_text(json.dumps(earlier))
    table = run_page(read_run(folder)).html().split("The run has 2 parts")[1].split("</table>")[0]
    assert '<div class="wide texts">' in table
    assert "/a/long/folder" in table


def add(collector, epoch, indices, cosines, norms=None):
    indices = torch.tensor(indices)
    norms = torch.full(indices.shape, 5.0) if norms is None else torch.tensor(norms)
    collector.add(epoch, indices, indices % 4, torch.tensor(cosines), norms)


def test_the_hardest_samples_and_identities_are_those_of_the_smallest_cosines(tmp_path, monkeypatch):
    monkeypatch.setattr(hard_samples, "NUM_SAMPLES", 3)
    collector = HardSamples(SyntheticDataset(4, 64))
    add(collector, 0, [0, 1, 2, 3, 4, 5], [0.9, 0.1, float("nan"), -0.5, 0.3, 0.2])
    add(collector, 0, [7, 11, 3, 8], [-0.4, -0.3, -0.9, 0.8])  # 3 once more: it is shown once
    collector.write(tmp_path / "hard.json")
    found = json.loads((tmp_path / "hard.json").read_text())
    assert found["seen"] == 9
    assert found["epoch"] == 0
    assert [(s["label"], round(s["cosine"], 3)) for s in found["samples"]] == [
        (3, -0.5),
        (3, -0.4),
        (3, -0.3),
    ]
    hardest = found["identities"][0]
    assert hardest["label"] == 3
    assert hardest["seen"] == 4
    assert hardest["cosine"] == pytest.approx(-0.525)
    assert [image["name"] for image in hardest["images"]] == [f"random image {i}" for i in (3, 7, 11)]
    assert all(image["image"].startswith("/9j/") for image in hardest["images"])  # JPEG


def test_the_newest_epoch_counts_once_it_has_seen_half_as_much(tmp_path):
    collector = HardSamples(SyntheticDataset(4, 64))
    add(collector, 0, [0, 1, 2, 3], [-0.9, 0.0, 0.0, 0.0])
    add(collector, 1, [5], [0.5])
    for epoch in (0, 1):
        collector.write(tmp_path / "hard.json")
        assert json.loads((tmp_path / "hard.json").read_text())["epoch"] == epoch
        add(collector, 1, [6], [0.5])


def test_the_page_shows_the_hard_samples(tmp_path):
    folder = write_run(tmp_path / "tiny")
    collector = HardSamples(SyntheticDataset(4, 64))
    add(collector, 1, [1, 5, 9], [0.1, 0.2, 0.3], [7.5, 5.0, 5.0])
    collector.write(folder / "hard_samples.json")
    text = text_of(run_page(read_run(folder)).html())
    assert "cosine 0.10, norm 7.5, class 1, random image 1" in text
    assert "Class 1: mean cosine 0.200 over 3 images" in text


@pytest.mark.parametrize(
    ("network", "precision", "device", "said"),
    [
        ("r100", "fp16", "cpu", ["no instructions for it", "network=r100 on a CPU"]),
        ("mbf", "fp32", "cpu", []),
        ("r100", "fp16", "cuda", []),
    ],
)
def test_what_makes_a_run_slow_on_a_cpu_is_said_before_it_starts(network, precision, device, said):
    cfg = {"network": network, "precision": precision, "batch_size": 128}
    found = hints(cfg, torch.device(device), {"mbf": 2, "r100": 65}[network] * 1_000_000)
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found))


def test_the_training_script_starts_without_what_it_needs_only_later():
    late = ("matplotlib", "torch.distributed.fsdp", "torchvision", "tensorboard", "sklearn", "onnx")
    code = f"import sys, train_v2; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    "why_not", ["", "drawn a moment ago", "asked to stop", "report=false", "another rank"]
)
def test_a_run_draws_now_and_then_unless_it_has_to_stop(why_not, tmp_path, monkeypatch):
    write_run(tmp_path / "tiny")
    log = RunLog(tmp_path / "tiny", rank=int(why_not == "another rank"), total_steps=20, global_batch=8)
    monkeypatch.setattr(run_report, "REST_S", 60 if why_not == "drawn a moment ago" else -1)
    monkeypatch.setattr(here, "stop_agreed", why_not == "asked to stop")
    log.log_step(1, epoch=0.1, loss=2.0, lr=0.1)
    report = RunReport(log, SyntheticDataset(10, 96), on=why_not != "report=false")
    report.draw()
    assert (tmp_path / "tiny/report.html").exists() == (not why_not)
    report.draw(at_the_end=True)
    log.close()
    assert (tmp_path / "tiny/report.html").exists() == (why_not not in ("report=false", "another rank"))
    assert (tmp_path / "tiny/curves.png").exists() == (why_not != "another rank")
