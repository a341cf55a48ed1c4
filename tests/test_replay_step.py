"""A batch that training had to skip is shown layer by layer, from the file that training has saved."""

import math
import sys

import pytest
import torch

from backbones import save_backbone
from helpers.backbone_cases import SMALL, images, small
from tools import replay_step

MBF = {"network": "mbf", "num_features": 32, "network_args": SMALL["mbf"]}


@pytest.fixture
def batch(tmp_path):
    """The file of a batch, with a network beside it."""
    save_backbone(tmp_path / "model.pt", small("mbf"), **MBF)
    path = tmp_path / "skipped_step_7_rank_0.pt"
    content = {"images": images(4), "labels": torch.arange(4), "gradient": torch.ones(4, 32), "names": []}
    torch.save(content | {"step": 7, "precision": "fp32"}, path)
    return path


def printed(monkeypatch, capsys, *arguments) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["replay_step.py", *map(str, arguments)])
    replay_step.main()
    return capsys.readouterr().out.splitlines()


def faulty_layers(lines: list[str], column: int = 3) -> list[str]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row[0] for row in rows[1:] if row[column]]


def test_a_finite_batch_has_a_row_for_each_layer_and_no_fault(batch, monkeypatch, capsys):
    lines = printed(monkeypatch, capsys, batch)
    assert lines[0] == "step 7, 4 images, not finite: none"
    layers = [name for name, layer in small("mbf").named_modules() if not list(layer.children())]
    assert [name for name in layers if any(f"| {name} " in line for line in lines)] == layers
    assert faulty_layers(lines) == faulty_layers(lines, column=5) == []
    assert not any(line.rstrip("| ").endswith("–") for line in lines), "a layer without a gradient"


def test_the_backward_pass_begins_with_the_gradient_that_was_saved(batch, monkeypatch, capsys):
    content = torch.load(batch, weights_only=True)
    content["gradient"][1, 3] = math.inf
    torch.save(content, batch)
    lines = printed(monkeypatch, capsys, batch)
    assert faulty_layers(lines) == []
    layers = [name for name, layer in small("mbf").named_modules() if not list(layer.children())]
    assert faulty_layers(lines, column=5)[-1] == layers[-1]


def test_the_layer_where_numbers_overflow_is_the_first_with_a_count(batch, monkeypatch, capsys):
    network = small("mbf")
    network.layers[2].layers[0].layers[0].weight.data.fill_(3e38)
    save_backbone(batch.parent / "other.pt", network, **MBF)
    lines = printed(monkeypatch, capsys, batch, "--model", batch.parent / "other.pt")
    assert faulty_layers(lines)[0] == "layers.2.layers.0.layers.0"


def test_images_that_are_not_finite_are_named(batch, monkeypatch, capsys):
    content = torch.load(batch, weights_only=True)
    content["images"][2, 0, 5, 5] = math.nan
    torch.save(content | {"names": ["a", "b", "c", "d"]}, batch)
    lines = printed(monkeypatch, capsys, batch)
    assert lines[0] == "step 7, 4 images, not finite: c"
    assert faulty_layers(lines)[0] == "layers.0.layers.0"


def test_another_file_and_a_missing_network_are_said(batch, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"model\.pt is no batch that training has saved"):
        printed(monkeypatch, capsys, batch.parent / "model.pt")
    (batch.parent / "model.pt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"model\.pt is no batch that training has saved"):
        printed(monkeypatch, capsys, batch.parent / "model.pt")
    (batch.parent / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no network in .*model\.pt: name one with --model"):
        printed(monkeypatch, capsys, batch)
