"""Exported networks give the network's embeddings and say what they take; other layouts come back equal."""

import json
import sys

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from backbones import get_model, load_backbone, save_backbone
from backbones.conversion import layouts_of, turned, write_layout
from backbones.export import deployed, description, write_onnx
from backbones.onnx_model import OnnxModel, begins_with_arithmetic
from eval.features import extract
from eval.models import load_model
from helpers.backbone_cases import SMALL, images, small, small_networks
from helpers.onnx_files import write_means
from tools import convert, export

FACES = np.random.default_rng(3).integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)


def with_statistics(name: str, order: str = "RGB") -> torch.nn.Module:
    """A small network in evaluation mode whose BatchNorm is no identity, so that a wrong folding shows."""
    network = small(name).train()
    with torch.no_grad():
        for _ in range(3):
            network(images(4) + 0.3)
    network.input_order = order
    return network.eval()


def saved(folder, name="mbf", order="RGB"):
    network = with_statistics(name, order)
    path = folder / "model.pt"
    args = {"network": name, "num_features": 32, "network_args": SMALL[name], "input_order": order}
    save_backbone(path, network, **args)
    return path


def run(monkeypatch, script, *words):
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, words)])
    script.main()


def same(found, expected):
    """Equal up to rounding: a ten-thousandth of the largest number, as the tool allows."""
    return np.abs(found - expected).max() <= export.ALLOWED * np.abs(expected).max()


@pytest.mark.slow
@small_networks
def test_every_family_becomes_onnx_and_gives_its_embeddings_in_any_batch(name, tmp_path):
    network = with_statistics(name)
    path = tmp_path / "network.onnx"
    write_onnx(path, network, description(network), batch=None, legacy=False)
    assert onnx.load(path).opset_import[0].version == export.OPSET
    output = export.onnx_output(path)
    assert export.difference(network, output, (1, 7)) < export.ALLOWED
    model = OnnxModel(path)
    assert (model.input_order, model.mean, model.network) == ("RGB", 127.5, name)
    for found, expected in zip(extract(model, FACES, batch_size=2), extract(network, FACES)):
        assert same(found, expected)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("more", [["--pixels", "BGR", "--legacy"], ["--legacy", "--batch", "3"]])
def test_onnx_takes_what_its_metadata_say(order, more, tmp_path, monkeypatch, capsys):
    path = saved(tmp_path, order=order)
    out = tmp_path / "new" / "face.onnx"
    run(monkeypatch, export, "--model", path, "--out", out, *more)
    bytes_in = "--pixels" in more
    taken = "BGR" if bytes_in else order
    kind = "uint8 (N, 112, 112, 3)" if bytes_in else "float32 (N, 3, 112, 112) in [-1, 1]"
    assert capsys.readouterr().out.startswith(f"{out}: takes {taken} {kind}; at most ")
    assert [file.name for file in out.parent.iterdir()] == ["face.onnx"]
    (entry,) = onnx.load(out).graph.input
    first = entry.type.tensor_type.shape.dim[0]
    assert (first.dim_value, first.dim_param) == ((0, "batch") if bytes_in else (3, ""))
    model = load_model(out)
    assert (model.input_order, model.channels_last) == (taken, bytes_in)
    for found, expected in zip(extract(model, FACES), extract(load_backbone(path), FACES)):
        assert same(found, expected)


def test_torchscript_runs_without_the_project_in_any_batch(tmp_path, monkeypatch):
    path, out = saved(tmp_path), tmp_path / "face.torchscript"
    run(monkeypatch, export, "--model", path, "--out", out, "--pixels", "RGB")
    extra = {"lqface.json": ""}
    with export.quiet():
        network = torch.jit.load(out, _extra_files=extra)
    assert json.loads(extra["lqface.json"])["input_order"] == "RGB"
    plain, _ = extract(load_backbone(path), FACES)
    assert same(network(torch.from_numpy(FACES)).detach().numpy(), plain)


def test_a_release_holds_the_weights_and_all_that_builds_the_network(tmp_path, monkeypatch):

    path, out = saved(tmp_path, "ir_18", "BGR"), tmp_path / "release"
    results = tmp_path / "results.json"
    numbers = {"accuracy": 0.91, "far_target": 1e-3, "curve": [0.5]}
    results.write_text(json.dumps({"title": "Verification", "sets": {"lfw": numbers}, "rank": {"1": 0.5}}))
    run(monkeypatch, export, "--model", path, "--out", out, "--results", results)
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    about = json.loads((out / "config.json").read_text())
    assert (about["input_order"], about["normalise"]) == ("BGR", [127.5, 127.5])
    again = get_model(about["network"], num_features=about["num_features"], **about["network_args"])
    again.load_state_dict(load_file(out / "model.safetensors"))
    again.input_order = about["input_order"]
    assert np.array_equal(extract(again, FACES)[0], extract(load_backbone(path), FACES)[0])
    card = (out / "README.md").read_text()
    assert "| Verification | sets lfw accuracy | 0.91 |\n| Verification | rank 1 | 0.5 |\n\n" in card
    head = card.split("---\n")[1]
    index = json.loads(head.split("model-index: ")[1])
    assert index[0]["results"][0]["metrics"][0] == {
        "name": "sets lfw accuracy", "type": "accuracy", "value": 0.91
    }  # fmt: skip
    with pytest.raises(FileExistsError, match="release exists already"):
        run(monkeypatch, export, "--model", path, "--out", out)


def test_an_export_that_is_wrong_or_impossible_leaves_no_file(tmp_path, monkeypatch):
    path, out = saved(tmp_path), tmp_path / "out" / "face.torchscript"
    monkeypatch.setattr(export, "ALLOWED", -1)
    with pytest.raises(ValueError, match=r"is not written: its embeddings differ by .* allowed is -1"):
        run(monkeypatch, export, "--model", path, "--out", out)
    assert list(out.parent.iterdir()) == []
    for name, more, message in (
        ("face.pt", [], r"allowed are NAME\.onnx, NAME\.torchscript and a folder"),
        ("release", ["--pixels", "RGB"], "--pixels means nothing for a folder"),
        ("face.torchscript", ["--batch", "2"], r"--batch means nothing for anything but \.onnx"),
        ("face.onnx", ["--batch", "0"], "--batch is 0, allowed: 1 or more"),
        ("face.onnx", ["--results", "r.json"], "--results means nothing for a single file"),
    ):
        with pytest.raises(ValueError, match=message):
            run(monkeypatch, export, "--model", path, "--out", tmp_path / "out" / name, *more)
    with pytest.raises(ValueError, match=r"x\.onnx is an ONNX file: this takes weights"):
        run(monkeypatch, export, "--model", "x.onnx", "--out", tmp_path / "y.onnx")
    assert list(out.parent.iterdir()) == []


@small_networks
def test_another_project_s_file_gives_the_same_embeddings_in_its_colour_order(name, tmp_path):
    for order in ("RGB", "BGR"):
        network = with_statistics(name, order)
        for layout in layouts_of(network)[1:]:
            path = tmp_path / f"{layout}_{order}"
            write_layout(path, network, layout)
            content = torch.load(path, weights_only=True)
            weights = content if layout == "insightface" else content["state_dict"]
            theirs, prefix = small(name), "model." if layout == "adaface" else ""
            theirs.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items()})
            theirs.input_order = {"insightface": "RGB", "adaface": "BGR"}[layout]
            assert same(extract(theirs, FACES)[0], extract(network, FACES)[0])
            back = turned(theirs, order)
            assert all(torch.equal(value, back[key]) for key, value in network.state_dict().items())


def test_weights_of_others_become_ours_and_return(tmp_path, monkeypatch, capsys):
    path = saved(tmp_path, order="BGR")
    theirs, ours = tmp_path / "backbone.pth", tmp_path / "sub" / "ours.pt"
    run(monkeypatch, convert, "--model", path, "--to", "insightface", "--out", theirs)
    assert capsys.readouterr().out == (
        f"{theirs}: mbf for insightface, takes RGB, its first convolution turned\n"
    )
    run(monkeypatch, convert, "--model", path, "--to", "lqface", "--out", ours)
    a, b = load_backbone(path), load_backbone(ours)
    assert (a.network_args, a.input_order) == (b.network_args, b.input_order)
    assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    with pytest.raises(ValueError, match="adaface does not have mbf; allowed for it: lqface, insightface"):
        run(monkeypatch, convert, "--model", path, "--to", "adaface", "--out", tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="is the --model itself"):
        run(monkeypatch, convert, "--model", path, "--to", "lqface", "--out", path)


# ------------------------------------------------------------------------------------------ ONNX of others


MEANS = FACES.reshape(5, -1, 3).mean(axis=1)  # (5, 3) of bytes, RGB


@pytest.mark.parametrize(
    ("shape", "options", "expected"),
    [
        (["None", 3, 112, 112], {}, MEANS / 127.5 - 1),
        ([1, 3, 112, 112], {}, MEANS / 127.5 - 1),
        ([2, 112, 112, 3], {}, MEANS / 127.5 - 1),
        (["n", 3, "h", "w"], {"normalise": (0, 255)}, MEANS / 255),
        (["n", 3, 112, 112], {"before": [("Sub", 127.5), ("Mul", 0.5)]}, (MEANS - 127.5) / 2),
        (["n", 112, 112, 3], {"kind": onnx.TensorProto.UINT8}, MEANS),
        (["n", 3, 160, 160], {"normalise": (0, 1)}, MEANS),
    ],
)
def test_input_layout_size_batch_and_normalisation_of_anyone_are_found(shape, options, expected, tmp_path):
    normalise = options.pop("normalise", None)
    path = write_means(tmp_path / "x.onnx", shape, **options)
    for order in ("RGB", "BGR"):
        model = load_model(path, input_order=order, normalise=normalise)
        found, mirrored = extract(model, FACES, batch_size=3)
        tolerance = 0.2 if shape[2] == 160 else 1e-4 * np.abs(expected).max()
        assert np.allclose(found, expected[:, :: 1 if order == "RGB" else -1], atol=tolerance)
        assert np.allclose(mirrored, found, atol=tolerance)


def test_a_graph_that_begins_with_a_layer_does_not_normalise(tmp_path):
    assert not begins_with_arithmetic(write_means(tmp_path / "a.onnx", ["n", 3, 112, 112]), "data")
    before = [("Sub", 1.0)]
    assert begins_with_arithmetic(write_means(tmp_path / "b.onnx", ["n", 3, 112, 112], before=before), "data")


def test_what_an_onnx_file_leaves_open_or_cannot_do_is_one_clear_line(tmp_path):
    path = write_means(tmp_path / "x.onnx", ["n", 3, 112, 112])
    (tmp_path / "text.onnx").write_text("no model")
    network = with_statistics("mbf")
    ours = tmp_path / "ours.onnx"
    write_onnx(ours, deployed(network), description(network), batch=None, legacy=True)
    for wrong, options, message in (
        (path, {}, "does not say its colour order, .*--input-order RGB"),
        (path, {"input_order": "GBR"}, "input_order is 'GBR', allowed: RGB, BGR"),
        (path, {"input_order": "RGB", "normalise": (0, 0)}, "the second number divides"),
        (path, {"network": "r50"}, "--network r50 means nothing for"),
        (ours, {"input_order": "BGR"}, "says that it takes RGB, not BGR"),
        (saved(tmp_path), {"normalise": (0, 1)}, "--normalise is for ONNX files"),
        (tmp_path / "text.onnx", {"input_order": "RGB"}, "no ONNX file that onnxruntime can run"),
        (tmp_path / "none.onnx", {}, "no model file"),
        (
            write_means(tmp_path / "r.onnx", ["n", 3, 112, 96]),
            {"input_order": "RGB"},
            "expected square images",
        ),
        (
            write_means(tmp_path / "c.onnx", ["n", 1, 112, 112]),
            {"input_order": "RGB"},
            "expected square images",
        ),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_model(wrong, **options)


def test_a_missing_package_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"to run ONNX files takes onnxruntime .*: pip install onnxruntime"):
        load_model(write_means(tmp_path / "x.onnx", ["n", 3, 112, 112]), input_order="RGB")
