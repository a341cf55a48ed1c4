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
    learning = [name for name, _ in small("mbf").named_parameters()]
    how = {"step": 7, "precision": "fp32", "resting": [], "learning": learning}
    torch.save(content | how, path)
    return path


def printed(monkeypatch, capsys, *arguments) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["replay_step.py", *map(str, arguments)])
    replay_step.main()
    return capsys.readouterr().out.splitlines()


def rows_of(lines: list[str]) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[1:]


def faulty_layers(lines: list[str], column: int = 3) -> list[str]:
    return [row[0] for row in rows_of(lines) if row[column]]


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


def test_what_was_frozen_or_at_rest_in_the_run_is_so_again(batch, monkeypatch, capsys):
    network, content = small("mbf"), torch.load(batch, weights_only=True)
    learning = [name for name in content["learning"] if not name.startswith("layers.0")]
    norms = [name for name, part in network.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
    torch.save(content | {"resting": norms, "learning": learning}, batch)
    frozen = rows_of(printed(monkeypatch, capsys, batch))
    no_gradient = [row[0] for row in frozen if row[4] == "–"]
    assert no_gradient == [row[0] for row in frozen if row[0].startswith("layers.0")] != []

    everything = [name for name, _ in network.named_modules()]
    torch.save(content | {"resting": everything, "learning": []}, batch)
    resting = rows_of(printed(monkeypatch, capsys, batch))
    assert {row[4] for row in resting} == {"–"}
    with torch.no_grad():
        expected = network.eval()(content["images"]).abs().max().item()
    assert resting[-1][2] == f"{expected:.3g}"
    torch.save(content, batch)
    in_training = rows_of(printed(monkeypatch, capsys, batch))
    assert resting[-1][2] != in_training[-1][2]


def test_another_file_and_a_missing_network_are_said(batch, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"model\.pt is no batch that training has saved"):
        printed(monkeypatch, capsys, batch.parent / "model.pt")
    (batch.parent / "model.pt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"model\.pt is no batch that training has saved"):
        printed(monkeypatch, capsys, batch.parent / "model.pt")
    (batch.parent / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no network in .*model\.pt: name one with --model"):
        printed(monkeypatch, capsys, batch)
