"""Weights survive every kind of file: this project's, insightface's, AdaFace's, and broken ones."""

import copy
import itertools
import logging
import pickle
import re
import shutil
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from backbones import MODEL_NAMES, get_model, load_backbone, save_backbone, weight_files
from helpers.backbone_cases import SMALL, case, images, shapes, small
from helpers.disk import damaged, file_size_limit
from utils.buffers import FlatBuffers
from utils.log_files import LOGGER_NAME


def same_outputs(backbone, original) -> bool:
    return torch.equal(backbone(images()), original.eval()(images()))


@pytest.mark.parametrize(("name", "input_order"), list(map(case, SMALL, itertools.cycle(["RGB", "BGR"]))))
def test_own_files_carry_everything(name, input_order, tmp_path):
    original = small(name)
    original(images())  # running statistics of its own
    file = tmp_path / "model.pt"
    save_backbone(
        file, original, network=name, num_features=32, network_args=SMALL[name], input_order=input_order
    )
    loaded = load_backbone(file)
    assert (loaded.training, loaded.input_order, loaded.network) == (False, input_order, name)
    assert same_outputs(loaded, original)
    assert {k: p.requires_grad for k, p in loaded.named_parameters()} == {
        k: p.requires_grad for k, p in original.named_parameters()
    }
    assert [f.name for f in tmp_path.iterdir()] == ["model.pt"]
    content = torch.load(file, weights_only=True)
    assert content.keys() == {
        "format",
        "network",
        "num_features",
        "network_args",
        "input_order",
        "state_dict",
        "crc32",
    }


def test_a_wrapped_backbone_is_saved_bare_and_keeps_its_input_order(tmp_path):
    class Wrapped(nn.Module):
        """As DistributedDataParallel wraps."""

        def __init__(self, module):
            super().__init__()
            self.module = module

    original = small("mbf")
    original.input_order = "BGR"
    save_backbone(
        tmp_path / "m.pt", Wrapped(original), network="mbf", num_features=32, network_args=SMALL["mbf"]
    )
    loaded = load_backbone(tmp_path / "m.pt")
    assert loaded.input_order == "BGR"
    assert same_outputs(loaded, original)


def test_a_failed_save_leaves_the_old_file_whole(tmp_path, monkeypatch):
    file = tmp_path / "model.pt"
    settings = {"network": "mbf", "num_features": 32, "network_args": SMALL["mbf"]}
    original = small("mbf")
    save_backbone(file, original, **settings)

    def full_disk(content, file):
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_backbone(file, small("mbf", num_features=32), **settings)
    assert same_outputs(load_backbone(file), original)
    assert [f.name for f in tmp_path.iterdir()] == ["model.pt"]


MBF = {"network": "mbf", "num_features": 32, "network_args": SMALL["mbf"]}


def test_the_file_holds_the_backbone_alone_where_its_buffers_share_memory_with_others(tmp_path):
    original, memory = small("mbf"), nn.Module()
    memory.register_buffer("rows", torch.zeros(1_000_000))
    save_backbone(tmp_path / "before.pt", original, **MBF)
    FlatBuffers(nn.ModuleList([original, memory]))
    save_backbone(tmp_path / "after.pt", original, **MBF)
    before, after = ((tmp_path / f"{name}.pt").stat().st_size for name in ("before", "after"))
    assert after == before


def test_a_full_disk_is_named_and_the_old_file_stays_whole(tmp_path):
    file, original = tmp_path / "model.pt", small("mbf")
    save_backbone(file, original, **MBF)
    with file_size_limit(100_000), pytest.raises(OSError, match="File too large") as error:
        save_backbone(file, small("mbf"), **MBF)
    assert error.value.filename == str(file)
    assert same_outputs(load_backbone(file), original)
    assert [f.name for f in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_not_written_and_the_old_file_stays(tmp_path, value):
    file, original = tmp_path / "model.pt", small("mbf")
    save_backbone(file, original, **MBF)
    broken = small("mbf")
    key = list(broken.state_dict())[7]
    broken.state_dict()[key].flatten()[-1] = value
    with pytest.raises(
        ValueError, match=rf"model.pt is not written: {key} holds numbers that are not finite"
    ):
        save_backbone(file, broken, **MBF)
    assert same_outputs(load_backbone(file), original)
    assert [f.name for f in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_no_flipped_bit_loads_as_another_network(tmp_path):
    file, original = tmp_path / "model.pt", small("mbf")
    save_backbone(file, original, **MBF, input_order="BGR")
    data, right, told = file.read_bytes(), original.state_dict(), []
    for seed in range(200):
        file.write_bytes(damaged(data, seed))
        try:
            found = load_backbone(file)
            assert (found.input_order, found.network) == ("BGR", "mbf"), seed
            assert all(torch.equal(tensor, right[key]) for key, tensor in found.state_dict().items()), seed
        except ValueError as error:
            told.append(str(error))
    assert len(told) > 100
    # A bit may also make a class of what torch reads, which is refused as one that could run code.
    known = rf"{file} (is no model file, or a damaged one \(|names .*, and to read that could run any code).*"
    assert [line for line in told if not re.fullmatch(known, line)] == []


def test_a_small_file_cannot_hold_large_tensors(tmp_path):
    file, key = tmp_path / "model.pt", "features.weight"
    for content in (
        {key: torch.zeros(1).expand(10**12)},
        {"state_dict": {key: torch.zeros(1, 9).expand(10**9, 9)}},
    ):
        torch.save(content, file)
        with pytest.raises(
            ValueError, match=rf"model.pt: .*{key} is \(.*, of which the file holds \d+ bytes"
        ):
            load_backbone(file)
    torch.save({key: torch.zeros(16)}, tmp_path / "good.pt")
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "good.pt") as old, zipfile.ZipFile(file, "w", kind) as new:
            for item in old.infolist():
                new.writestr(item.filename, old.read(item))
            if kind == zipfile.ZIP_STORED:  # the same bytes under a hundred names
                for number in range(100):
                    twin = copy.copy(new.getinfo("good/data.pkl"))
                    twin.filename = f"good/data/{number + 1}"
                    new.filelist.append(twin)
        with pytest.raises(ValueError, match=r"model.pt is no model file.*(overlap|compressed)"):
            load_backbone(file)


@pytest.mark.parametrize(
    "change", [{"input_order": "RGB"}, {"network": "r18"}, {"network_args": {}}, {"num_features": 16}]
)
def test_settings_are_covered_by_the_checksum(tmp_path, change):
    file = tmp_path / "model.pt"
    save_backbone(file, small("mbf"), **MBF, input_order="BGR")
    torch.save(torch.load(file, weights_only=True) | change, file)
    with pytest.raises(ValueError, match="checksum is another than when it was written"):
        load_backbone(file)


def test_files_without_a_checksum_load_with_a_word(tmp_path, caplog):
    file, original = tmp_path / "model.pt", small("mbf")
    save_backbone(file, original, **MBF)
    content = torch.load(file, weights_only=True)
    with caplog.at_level(logging.INFO, LOGGER_NAME):
        load_backbone(file)
        assert caplog.records == []
        del content["crc32"]  # an older version of this project
        torch.save(content, file)
        assert same_outputs(load_backbone(file), original)
        torch.save(get_model("mbf").state_dict(), file)  # insightface
        load_backbone(file)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert {r.getMessage() for r in caplog.records} == {f"{file} has no checksum: damage would go unnoticed"}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["mbf", None])
def test_insightface_files_load_with_and_without_a_name(prefix, name, tmp_path):
    torch.manual_seed(5)
    original = get_model("mbf")
    torch.save({prefix + k: v for k, v in original.state_dict().items()}, tmp_path / "backbone.pth")
    loaded = load_backbone(tmp_path / "backbone.pth", name)
    assert (loaded.network, loaded.input_order, loaded.training) == ("mbf", "RGB", False)
    assert same_outputs(loaded, original)


def test_files_in_half_precision_or_of_old_versions_load_in_float32(tmp_path):
    original = get_model("mbf", num_features=64).half()
    weights = {k: v for k, v in original.state_dict().items() if "num_batches" not in k}
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loaded = load_backbone(tmp_path / "old.pth", num_features=64)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32, torch.int64}
    assert same_outputs(loaded, original.float())


@pytest.fixture
def lightning(monkeypatch):
    """A stand-in for the package whose classes AdaFace's checkpoints name."""
    module = types.ModuleType("pytorch_lightning")
    for name, bases in {"ModelCheckpoint": (), "AttributeDict": (dict,)}.items():
        setattr(module, name, type(name, bases, {"__module__": module.__name__}))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def lightning_checkpoint(backbone, lightning) -> dict:
    callback = lightning.ModelCheckpoint()
    callback.best_model_path = "epoch=25.ckpt"
    return {
        "epoch": 25,
        "pytorch-lightning_version": "1.4.4",
        "state_dict": {f"model.{k}": v for k, v in backbone.state_dict().items()}
        | {"head.kernel": torch.zeros(512, 10), "head.t": torch.zeros(1)},
        "callbacks": {lightning.ModelCheckpoint: {"monitor": "val_acc", "self": callback}},
        "hyper_parameters": lightning.AttributeDict(arch="ir_18", lr=0.1),
    }


@pytest.mark.parametrize("name", ["ir_18", None])
def test_adaface_checkpoints_load_as_bgr_without_lightning(name, lightning, tmp_path, monkeypatch):
    original = get_model("ir_18")
    torch.save(lightning_checkpoint(original, lightning), tmp_path / "adaface.ckpt")
    monkeypatch.setitem(sys.modules, lightning.__name__, None)  # from here on an import fails
    loaded = load_backbone(tmp_path / "adaface.ckpt", name)
    assert (loaded.network, loaded.input_order) == ("ir_18", "BGR")
    assert same_outputs(loaded, original)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "adaface.ckpt", weights_only=True)


def one_number_each(name, monkeypatch) -> dict:
    """A large network's state_dict, each tensor one number, repeated: nothing large is written or read."""
    monkeypatch.setattr(weight_files, "_check_memory", lambda *_: None)  # it would be refused
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes(name).items()}


@pytest.mark.parametrize("name", [case(name) for name in MODEL_NAMES if name != "r2060"])  # takes 10 s
def test_keys_and_shapes_tell_the_network(name, tmp_path, monkeypatch):
    weights = one_number_each(name, monkeypatch)
    torch.save(weights, tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").stat().st_size < 20e6
    network = load_backbone(tmp_path / "weights.pt", input_order="RGB").network
    twins = {"vit_t_dp005_mask0": "vit_t", "vit_s_dp005_mask_0": "vit_s", "vit_b_dp005_mask_005": "vit_b"}
    assert network == twins.get(name, name)


class _Evil:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return shutil.copyfile, (__file__, str(self.trace))


def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path):
    file, trace = tmp_path / "evil.ckpt", tmp_path / "ran"
    torch.save({"state_dict": {}, "callbacks": _Evil(trace)}, file)
    with pytest.raises(
        ValueError, match=r"evil.ckpt names shutil.copyfile, .*If you trust .*weights_only=False"
    ) as e:
        load_backbone(file)
    assert "\n" not in str(e.value)
    assert not trace.exists()


def write(path: Path, content) -> None:
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", {}, "is no model file, or a damaged one"),
        (b"\xff\xd8\xff\xe0 a picture", {}, r"no model file, .* damaged one \(not what torch.save writes\)"),
        (b"PK\x03\x04 an archive's start", {}, "is no model file, or a damaged one"),
        (torch.zeros(3), {}, "it holds a Tensor, not a state_dict"),
        ({"epoch": 3, "step": 5}, {}, "holds no state_dict, but epoch, step"),
        ({"conv.weight": torch.zeros(3)}, {}, r"holds no known backbone: .*fc.weight \(IResNet\).* conv.w"),
        ({"fc.weight": torch.zeros(512, 9)}, {}, "holds IResNet weights of other sizes than r18, r34"),
        ("r34", {"name": "r50"}, r"does not fit network 'r50': layer3.6.bn1.weight is missing and 119 more"),
        ("r34", {"name": "r50"}, r"; its weights fit 'r34'$"),
        ("r34", {"name": "ir_34"}, r"does not fit network 'ir_34': .* and \d+ more; its weights fit 'r34'"),
        ("r34", {"name": "r-34"}, r"unknown network 'r-34' .*did you mean 'r34'"),
        ("r34", {"num_features": 256}, "holds embeddings of 512 numbers, not num_features=256"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_clear_line(content, arguments, message, tmp_path, monkeypatch):
    if content == "r34":
        content = one_number_each("r34", monkeypatch)
    write(tmp_path / "model.pt", content)
    with pytest.raises(ValueError, match=message) as error:
        load_backbone(tmp_path / "model.pt", **arguments)
    assert str(error.value).startswith(str(tmp_path / "model.pt"))
    assert "\n" not in str(error.value)


def test_an_own_file_of_another_network_or_a_missing_file_is_named(tmp_path):
    save_backbone(tmp_path / "m.pt", small("mbf"), network="mbf", num_features=32, network_args=SMALL["mbf"])
    with pytest.raises(ValueError, match=r"m.pt holds network 'mbf', not 'r50'"):
        load_backbone(tmp_path / "m.pt", "r50")
    with pytest.raises(ValueError, match=r"input_order is 'RGB' or 'BGR', got 'rgb'"):
        save_backbone(tmp_path / "n.pt", small("mbf"), network="mbf", num_features=32, input_order="rgb")
    for missing in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match="no model file"):
            load_backbone(missing)


def test_a_truncated_file_is_one_clear_line(tmp_path):
    file = tmp_path / "m.pt"
    save_backbone(file, small("mbf"), network="mbf", num_features=32, network_args=SMALL["mbf"])
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"m.pt is no model file, or a damaged one \("):
        load_backbone(file)
