"""Weights in the layouts of others, in safetensors, and in files that are none: each loads or is one line."""

import json
import re
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from backbones import get_model, load_backbone, save_backbone, weight_files
from eval.features import extract
from helpers.backbone_cases import SMALL, images, shapes, small
from utils.run_info import ROOT

MBF = {"network": "mbf", "num_features": 32, "network_args": SMALL["mbf"]}


@pytest.fixture(scope="module")
def mbf() -> nn.Module:
    torch.manual_seed(5)
    return get_model("mbf", num_features=64).eval()


@pytest.fixture(autouse=True)
def _repeated_numbers(monkeypatch):
    """Let a file stand for a larger one, see `repeated`; test_load_backbone.py has that it is refused."""
    monkeypatch.setattr(weight_files, "_check_memory", lambda *_: None)


def repeated(name: str, prefix: str = "", **settings) -> dict[str, torch.Tensor]:
    """A state_dict whose tensors are one number each, repeated: nothing large is written or read."""
    return {
        prefix + key: torch.zeros(()).expand(shape)
        if "num_batches" not in key
        else torch.zeros((), dtype=torch.int64)
        for key, shape in shapes(name, **settings).items()
    }


def prefixed(prefix: str, weights: dict) -> dict:
    return {prefix + key: value for key, value in weights.items()}


LAYOUTS = {
    "bare": lambda w: w,
    "DistributedDataParallel": lambda w: prefixed("module.", w),
    "torch.compile": lambda w: prefixed("_orig_mod.", w),
    "compiled, then parallel": lambda w: prefixed("module._orig_mod.", w),
    "parallel, then compiled": lambda w: prefixed("_orig_mod.module.", w),
    "CVLface": lambda w: prefixed("net.", w),
    "CVLface on a hub": lambda w: prefixed("model.net.", w),
    "FaceX-Zoo": lambda w: {"state_dict": prefixed("module.", w), "epoch": 3},
    "arcface_torch's checkpoint_gpu_0.pt": lambda w: {
        "epoch": 3,
        "global_step": 100,
        "state_dict_backbone": prefixed("module.", w),
        "state_dict_softmax_fc": {"weight": torch.zeros(10, 64)},
        "state_optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "state_lr_scheduler": {},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_loads_as_the_network_that_was_saved(layout, mbf, tmp_path):
    torch.save(LAYOUTS[layout](mbf.state_dict()), tmp_path / "w.pt")
    loaded = load_backbone(tmp_path / "w.pt")
    assert (loaded.network, loaded.input_order) == ("mbf", "RGB")
    assert torch.equal(loaded(images()), mbf(images()))


@pytest.mark.parametrize("layout", ["bare", "torch.compile", "CVLface"])
def test_safetensors_load_as_files_of_torch_do(layout, mbf, tmp_path):
    safetensors.torch.save_file(LAYOUTS[layout](mbf.state_dict()), tmp_path / "w.safetensors")
    assert torch.equal(load_backbone(tmp_path / "w.safetensors")(images()), mbf(images()))


def test_vision_transformers_of_lvface_load_by_their_keys(tmp_path):
    weights = repeated("vit_b_dp005_mask_005", "module.")
    torch.save(weights, tmp_path / "LVFace-B_Glint360K.pt")
    loaded = load_backbone(tmp_path / "LVFace-B_Glint360K.pt")
    assert (loaded.network, loaded.input_order) == ("vit_b", "RGB")


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_own_safetensors_carry_everything_and_their_checksum(order, tmp_path):
    original, file = small("mbf"), tmp_path / "model.safetensors"
    save_backbone(file, original, **MBF, input_order=order)
    loaded = load_backbone(file)
    assert (loaded.network, loaded.input_order) == ("mbf", order)
    assert torch.equal(loaded(images()), original.eval()(images()))
    assert list(loaded.state_dict()) == list(original.state_dict())
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="checksum is another than when it was written"):
        load_backbone(file)


# ---------------------------------------------------------------- colour order


def test_bare_weights_of_adaface_s_family_are_refused_until_the_order_is_said(tmp_path):
    torch.manual_seed(0)
    network = get_model("ir_18", num_features=16).eval()
    faces = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    rgb = torch.from_numpy(faces).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
    torch.save(network.state_dict(), tmp_path / "tface.pth")
    with pytest.raises(ValueError, match=r"tface.pth does not tell its colour order: .*--input-order RGB"):
        load_backbone(tmp_path / "tface.pth")
    with pytest.raises(ValueError, match="input_order is 'RGB' or 'BGR', got 'rgb'"):
        load_backbone(tmp_path / "tface.pth", input_order="rgb")
    with torch.no_grad():
        for order, view in (("RGB", rgb), ("BGR", rgb.flip(1))):
            loaded = load_backbone(tmp_path / "tface.pth", input_order=order)
            plain, _ = extract(loaded, faces)
            assert loaded.input_order == order
            expected = network(view).numpy()
            np.testing.assert_allclose(plain, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("content", "order"),
    [
        ({"state_dict": repeated("ir_18", "model.") | {"head.kernel": torch.zeros(512, 3)}}, "BGR"),
        ({"state_dict": repeated("ir_18", "model.")}, None),  # the head is what only AdaFace's files have
        (repeated("ir_18", "module."), None),
        (repeated("ir_18", "net."), "RGB"),
        (repeated("r18"), "RGB"),
    ],
)
def test_the_order_is_the_layout_s_or_unknown(content, order, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    if order:
        assert load_backbone(tmp_path / "w.pt").input_order == order
    else:
        with pytest.raises(ValueError, match="does not tell its colour order"):
            load_backbone(tmp_path / "w.pt")
    assert load_backbone(tmp_path / "w.pt", input_order="BGR").input_order == "BGR"


@pytest.mark.parametrize("below", ["", "pretrained_model"])
def test_cvlface_s_yaml_says_the_order(below, tmp_path):
    (tmp_path / below).mkdir(exist_ok=True)
    torch.save(repeated("ir_18", "net."), tmp_path / "model.pt")
    yaml = tmp_path / below / "model.yaml"
    yaml.write_text("input_size: [3, 112, 112]\ncolor_space: 'BGR'\nname: 'ir18'\n")
    assert load_backbone(tmp_path / "model.pt").input_order == "BGR"
    yaml.write_text("color_space: HSV\n")
    with pytest.raises(ValueError, match=r"model.yaml: color_space 'HSV', allowed: RGB, BGR"):
        load_backbone(tmp_path / "model.pt")


def test_an_own_file_that_says_another_order_is_an_error(tmp_path):
    save_backbone(tmp_path / "m.pt", small("mbf"), **MBF, input_order="BGR")
    assert load_backbone(tmp_path / "m.pt", input_order="BGR").input_order == "BGR"
    with pytest.raises(ValueError, match=r"m.pt says that its network takes BGR, not RGB"):
        load_backbone(tmp_path / "m.pt", input_order="RGB")


# ---------------------------------------------------------------- what is code


def test_the_remedy_for_a_whole_module_works(mbf, tmp_path):
    torch.save(mbf, tmp_path / "who's whole.pt")
    with pytest.raises(ValueError, match="could run any code") as error:
        load_backbone(tmp_path / "who's whole.pt")
    remedy = re.search(r'python -c "(.*)"$', str(error.value))[1]
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {remedy}"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_backbone(tmp_path / "tensors.pt")(images()), mbf(images()))


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_torchscript_is_refused_as_code(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "w.pt"))
    with pytest.raises(ValueError, match=r"w.pt is no model file, .* \(TorchScript, which is code"):
        load_backbone(tmp_path / "w.pt")


# ---------------------------------------------------------------- what is wrong in a file


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> dict:
    """The content of a file of this project, without its checksum, which would find every change."""
    file = tmp_path_factory.mktemp("own") / "model.pt"
    save_backbone(file, small("mbf"), **MBF)
    content = torch.load(file, weights_only=True)
    del content["crc32"]
    return content


FIRST, LAST = "layers.0.layers.0.weight", "features.layers.2.weight"
WRONG_SETTINGS = {
    "network of a wrong type": ({"network": 3}, "damaged: network=3"),
    "no network": ({"network": None}, "damaged: network=None"),
    "network unknown": ({"network": "nope"}, "unknown network 'nope'"),
    "another network": ({"network": "r50"}, "does not fit network 'r50'|has no setting"),
    "args of a wrong type": ({"network_args": [1]}, r"network_args=\[1\]"),
    "args unknown": ({"network_args": {"zzz": 1}}, "zzz"),
    "args of get_model": ({"network_args": {"name": "r50"}}, "damaged: network_args"),
    "args with numbers for names": ({"network_args": {1: 2}}, "damaged: network_args"),
    "a million blocks": ({"network_args": {"blocks": [10**6, 1, 1, 1]}}, "damaged: network_args"),
    "no blocks": ({"network_args": {"blocks": [0, 1, 1, 1]}}, "blocks"),
    "blocks that are text": ({"network_args": {"blocks": ["a"] * 4}}, "blocks"),
    "a wide network": ({"network_args": {"blocks": [1, 1, 1, 1], "scale": 10**6}}, "does not fit"),
    "order unknown": ({"input_order": "GBR"}, "input_order='GBR'"),
    "order of a wrong type": ({"input_order": 7}, "input_order=7"),
    "weights missing": ({"state_dict": None}, "holds no state_dict"),
    "weights empty": ({"state_dict": {}}, "holds no known backbone"),
    "names that are numbers": ({"state_dict": {1: torch.ones(1)}}, "holds no state_dict"),
}
WRONG_WEIGHTS = {
    "not a number": (FIRST, lambda w: w * torch.nan, f"{FIRST} holds numbers that are not finite"),
    "infinite": (FIRST, lambda w: w + torch.inf, f"{FIRST} holds numbers that are not finite"),
    "too large for float32": (FIRST, lambda w: w.double() + 1e300, "not finite"),
    "integers": (FIRST, lambda w: w.int(), f"{FIRST} is of type int32, allowed are floating-point"),
    "bool": (FIRST, lambda w: w > 0, "is of type bool"),
    "complex": (FIRST, lambda w: w.to(torch.complex64), "is of type complex64"),
    "sparse": (FIRST, lambda w: w.to_sparse(), f"{FIRST} is no plain tensor"),
    "quantised": (
        FIRST,
        lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
        "is no plain tensor|is of type",
    ),
    "without numbers": (FIRST, lambda w: w.to("meta"), "is no plain tensor"),
    "of another shape": (FIRST, lambda w: w.transpose(0, 1), f"{FIRST} is "),
    "no rows": (LAST, lambda w: w[:0], "damaged"),
    "a scalar": (LAST, lambda w: w.sum(), "damaged"),
    "more rows than memory": (LAST, lambda w: torch.zeros(1, 1).expand(2**40, w.shape[1]), "."),
    "no tensor": (LAST, lambda w: None, "holds no state_dict"),
}


def refused(file, content) -> str:
    torch.save(content, file)
    with pytest.raises(ValueError, match=re.escape(str(file))) as error:
        load_backbone(file)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_a_wrong_setting_in_an_own_file_is_one_line(case, own, tmp_path):
    change, message = WRONG_SETTINGS[case]
    assert re.search(message, refused(tmp_path / "m.pt", {**own, **change}))


@pytest.mark.filterwarnings("ignore:.*(is deprecated|sparse tensor)")
@pytest.mark.parametrize("case", WRONG_WEIGHTS)
def test_weights_that_no_network_computes_with_are_one_line(case, own, tmp_path):
    key, change, message = WRONG_WEIGHTS[case]
    weights = {**own["state_dict"], key: change(own["state_dict"][key])}
    assert re.search(message, refused(tmp_path / "m.pt", {**own, "state_dict": weights}))


def test_half_double_and_learnt_weights_load(own, tmp_path):
    for change in (torch.Tensor.half, torch.Tensor.double, nn.Parameter):
        weights = {k: change(v) if v.is_floating_point() else v for k, v in own["state_dict"].items()}
        torch.save({**own, "state_dict": weights}, tmp_path / "m.pt")
        loaded = load_backbone(tmp_path / "m.pt")
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>404", "web page"),
        (struct.pack("<Q", 40) + b'{"a":{"dtype":"F32","shape":[1],"data_of' + b"\0" * 8, "no model file"),
        (struct.pack("<Q", 2**62) + b"{}", "no model file"),
        (struct.pack("<Q", 2) + b"{}", "holds no known backbone"),
    ],
)
def test_a_file_of_another_kind_is_one_line(data, message, tmp_path):
    (tmp_path / "m.pt").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        load_backbone(tmp_path / "m.pt")
    assert str(error.value).startswith(str(tmp_path / "m.pt"))
    assert "\n" not in str(error.value)


def test_settings_in_safetensors_that_are_no_json_are_one_line(tmp_path):
    metadata = {"lqface": json.dumps({"network": "mbf"})[:-3]}
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata)
    with pytest.raises(ValueError, match=r"m.safetensors is no model file, or a damaged one"):
        load_backbone(tmp_path / "m.safetensors")


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(own, tmp_path):
    torch.save(own, tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as old:
        content = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in content.items():
            new.writestr(name, data)
    with pytest.raises(ValueError, match=r"m.pt is no model file, .* \(it is compressed"):
        load_backbone(tmp_path / "m.pt")


def test_names_with_line_breaks_do_not_break_the_message(tmp_path):
    assert r"a\nb" in refused(tmp_path / "m.pt", {"a\nb\x1b[31m": torch.ones(1)})
