"""The networks equal the public ones, keep their promises in every family, and survive every kind of file."""

import json
import pickle
import shutil
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from backbones import MODEL_NAMES, get_model, load_backbone, save_backbone

GOLDENS = Path(__file__).parent / "goldens"
KEYS = json.loads((GOLDENS / "backbones_keys.json").read_text())
OUTPUTS = np.load(GOLDENS / "backbones.npz")

# One of each family, with a few blocks: a forward and backward pass takes a fraction of a second.
SMALL = {
    "r18": {"blocks": (1, 1, 2, 1)},
    "mbf": {"blocks": (1, 1, 2, 1), "scale": 1},
    "vit_t": {"width": 64, "depth": 3},
    "ir_se_50": {"blocks": (1, 1, 2, 1)},
}
small_networks = pytest.mark.parametrize("name", SMALL)


def small(name: str, **options):
    torch.manual_seed(1)
    return get_model(name, **{"num_features": 32, **SMALL[name], **options})


def images(count: int = 2) -> torch.Tensor:
    pixels = np.random.RandomState(1).uniform(-1, 1, (count, 3, 112, 112))
    return torch.from_numpy(pixels.astype(np.float32))


def weighted(embeddings: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient the last BatchNorm does not cancel."""
    return (embeddings * torch.arange(embeddings.numel()).view_as(embeddings).sin()).sum()


def on_meta(name: str, **settings) -> nn.Module:
    with torch.device("meta"):
        return get_model(name, **settings)


def shapes(name: str, **settings) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in on_meta(name, **settings).state_dict().items()}


# ---- the public networks ----------------------------------------------------------------------------------


def golden_tensor(key: str, shape: list[int]) -> torch.Tensor:
    """The weight that the rule of the recorded outputs gives to a key."""
    size = int(np.prod(shape))
    random = np.random.RandomState((zlib.crc32(key.encode()) + 1) % 2**32)
    if key.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if key.endswith("running_var"):
        values = random.uniform(0.5, 1.5, size)
    elif key.endswith("running_mean"):
        values = random.randn(size) * 0.05
    elif len(shape) <= 1:
        values = 1 + 0.1 * random.randn(size) if "weight" in key else 0.05 * random.randn(size)
    else:
        values = random.randn(size) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


@pytest.mark.parametrize("name", KEYS)
def test_keys_shapes_and_outputs_equal_the_recorded_ones(name):
    backbone = on_meta(name)
    assert shapes(name) == KEYS[name]
    backbone.load_state_dict(
        {key: golden_tensor(key, shape) for key, shape in KEYS[name].items()}, assign=True
    )
    if f"{name}_eval" in OUTPUTS:
        expected = {"eval": OUTPUTS[f"{name}_eval"]}
    else:  # AdaFace's networks return the direction and the length
        expected = {"eval": OUTPUTS[f"{name}_eval_unit"] * OUTPUTS[f"{name}_eval_norm"]}
    if f"{name}_train" in OUTPUTS:
        expected["train"] = OUTPUTS[f"{name}_train"]
    for mode, reference in expected.items():
        with torch.no_grad():
            embeddings = backbone.train(mode == "train")(images()).numpy()
        assert embeddings.dtype == np.float32
        errors = np.abs(embeddings - reference) / np.abs(reference).max()
        # BatchNorm over two images magnifies rounding 1/sqrt(eps) = 316 times where they nearly agree.
        assert np.quantile(errors, 0.99 if mode == "train" else 1) <= 1e-4
        assert errors.max() <= 1e-2


def count(keys, *parts: str) -> int:
    return sum(all(part in f".{key}" for part in parts) for key in keys)


@pytest.mark.parametrize(("name", "blocks"), {"r200": (6, 26, 60, 6), "r2060": (3, 128, 896, 3)}.items())
def test_the_deep_iresnets_have_the_public_number_of_blocks(name, blocks):
    keys = shapes(name)
    assert tuple(count(keys, f".layer{stage}.", ".conv1.weight") for stage in (1, 2, 3, 4)) == blocks
    assert {key: keys[key] for key in ("layer4.0.conv2.weight", "fc.weight")} == {
        "layer4.0.conv2.weight": [512, 512, 3, 3],
        "fc.weight": [512, 25088],
    }


def test_names_of_one_transformer_differ_in_training_only():
    for name, recorded in [("vit_t", "vit_t_dp005_mask0"), ("vit_s", "vit_s_dp005_mask_0")]:
        assert shapes(name) == KEYS[recorded]
    assert shapes("vit_b") == shapes("vit_b_dp005_mask_005")
    for name, drop_path, masked in [
        ("vit_t", 0.1, 15),
        ("vit_t_dp005_mask0", 0.05, 0),
        ("vit_s_dp005_mask_0", 0.05, 0),
        ("vit_b", 0.1, 15),
        ("vit_b_dp005_mask_005", 0.05, 8),
        ("vit_l_dp005_mask_005", 0.05, 8),
        ("vit_h", 0.1, 0),
    ]:
        backbone = on_meta(name)
        assert (backbone.blocks[0].drop_path, backbone.blocks[-1].drop_path) == (0, drop_path)
        assert 144 - backbone.num_kept == masked


@pytest.mark.parametrize(
    ("name", "width", "depth"),
    [("vit_b", 512, 24), ("vit_l_dp005_mask_005", 768, 24), ("vit_h", 1024, 48)],
)
def test_the_large_transformers_have_the_public_sizes(name, width, depth):
    keys = shapes(name)
    assert count(keys, ".mlp.fc1.weight") == depth
    assert keys["feature.0.weight"] == [width, 144 * width]
    assert keys["blocks.0.attn.qkv.weight"] == [3 * width, width]
    assert [b.attn.num_heads for b in on_meta(name).blocks] == [8] * depth


@pytest.mark.parametrize(("name", "num_blocks"), {"ir_152": 50, "ir_200": 66}.items())
def test_the_deep_adaface_networks_have_bottlenecks(name, num_blocks):
    keys = shapes(name)
    assert count(keys, ".res_layer.7.weight") == num_blocks
    assert count(keys, ".shortcut_layer.0.weight") == 4
    assert keys["body.0.res_layer.1.weight"] == [64, 64, 1, 1]
    assert keys["body.0.res_layer.4.weight"] == [64, 64, 3, 3]
    assert keys[f"body.{num_blocks - 1}.res_layer.7.weight"] == [2048, 512, 1, 1]
    assert keys["output_layer.3.weight"] == [512, 2048 * 49]


@pytest.mark.parametrize("plain", ["ir_50", "ir_101", "ir_152", "ir_200"])
def test_squeeze_and_excitation_only_adds_keys(plain):
    squeezed = shapes(plain.replace("ir_", "ir_se_"))
    added = {key: squeezed.pop(key) for key in list(squeezed) if "se_block" in key}
    assert squeezed == shapes(plain)
    assert len(added) == 2 * count(squeezed, ".res_layer.1.weight")
    assert all(min(shape[:2]) * 16 == max(shape[:2]) and shape[2:] == [1, 1] for shape in added.values())


# ---- every family ----------------------------------------------------------------------------------------


@small_networks
def test_embeddings_are_float32_under_autocast_and_near_full_precision(name):
    backbone = small(name).eval()
    reference = backbone(images())
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = backbone(images())
    assert reference.shape == embeddings.shape == (2, 32)
    assert reference.dtype == embeddings.dtype == torch.float32
    error = (embeddings - reference).norm() / reference.norm()
    assert 1e-6 < error < 0.05, "bfloat16 has 8 bits, and it was used"


@small_networks
def test_the_tail_runs_in_float32_under_autocast(name):
    backbone = small(name).eval()
    seen = []
    last_linear = backbone.get_submodule(backbone.embedding_weight.removesuffix(".weight"))
    last_linear.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        backbone(images())
    assert seen == [torch.float32, torch.float32]


def test_fp16_opens_float16_autocast_itself():
    backbone = small("vit_t", fp16=True).eval()
    own = backbone(images())
    backbone.fp16 = False
    with torch.autocast("cpu", torch.float16):
        outer = backbone(images())
    assert own.dtype == torch.float32
    assert torch.equal(own, outer)
    assert not torch.equal(own, backbone(images()))


def test_weights_in_float64_give_embeddings_in_float64():
    backbone = small("vit_t").double().eval()
    assert backbone(images().double()).dtype == torch.float64


@pytest.mark.parametrize(("name", "settings"), [*SMALL.items(), ("ir_152", {"blocks": (1, 1, 1, 1)})])
def test_num_features_is_honoured(name, settings):
    assert get_model(name, num_features=7, **settings).eval()(images()).shape == (2, 7)


@small_networks
def test_every_trainable_parameter_gets_a_gradient(name):
    """DistributedDataParallel waits for the gradient of every one."""
    for settings in ({}, {"mask_ratio": 0.0}) if name.startswith("vit") else ({},):
        backbone = small(name, **settings)
        backbone(images()).sum().backward()
        missing = [key for key, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []


@small_networks
def test_checkpointing_changes_neither_gradients_nor_running_statistics(name):
    def train_step(grad_checkpointing):
        backbone = small(name, grad_checkpointing=grad_checkpointing, dropout=0.3)
        calls = []
        for module in backbone.modules():
            if isinstance(module, nn.PReLU | nn.LayerNorm):
                module.register_forward_hook(lambda *_: calls.append(1))
        batch = images(3).requires_grad_()
        torch.manual_seed(3)  # of dropout, drop path and masks
        embeddings = backbone(batch)
        weighted(embeddings).backward()
        gradients = {key: p.grad for key, p in backbone.named_parameters() if p.requires_grad}
        return len(calls), {**backbone.state_dict(), **gradients, "images": batch.grad, "out": embeddings}

    calls, plain = train_step(False)
    calls_checkpointed, checkpointed = train_step(True)
    assert calls_checkpointed > calls, "the blocks were not recomputed"
    assert plain.keys() == checkpointed.keys()
    for key in plain:
        assert torch.equal(plain[key], checkpointed[key]), key
    assert {int(value) for key, value in checkpointed.items() if "num_batches" in key} == {1}


@small_networks
def test_channels_last_gives_the_same_embeddings_and_gradients(name):
    def run(memory_format):
        # In float64: a float32 rounding may flip a PReLU, whose gradient jumps.
        backbone = small(name).double().to(memory_format=memory_format).eval()
        embeddings = backbone(images().double().to(memory_format=memory_format))
        weighted(embeddings).backward()
        return embeddings, torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])

    for usual, last in zip(run(torch.contiguous_format), run(torch.channels_last)):
        assert (usual - last).abs().max() <= 1e-10 * usual.abs().max()


@small_networks
def test_dropout_is_used_in_training_only(name):
    quiet = {"drop_path_rate": 0.0, "mask_ratio": 0.0} if name.startswith("vit") else {}
    plain, dropping = small(name, **quiet), small(name, dropout=0.5, **quiet)
    assert torch.equal(plain.eval()(images()), dropping.eval()(images()))
    assert not torch.equal(plain.train()(images()), dropping.train()(images()))


def test_initial_weights_are_the_public_ones():
    assert small("r18").layer3[0].conv1.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert not small("r18").features.weight.requires_grad
    convolution = small("ir_se_50").body[3].res_layer[1].weight  # He et al., by outputs: 128 × 3 × 3 of them
    assert convolution.std().item() == pytest.approx((2 / (convolution.shape[0] * 9)) ** 0.5, rel=0.02)
    linear = small("mbf").features.layers[2].weight
    assert linear.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.03)
    transformer = small("vit_t")
    for tensor in (transformer.pos_embed, transformer.mask_token, transformer.blocks[1].mlp.fc2.weight):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.3)
    assert transformer.blocks[1].mlp.fc2.bias.abs().max() == 0


# ---- what transformers do in training ---------------------------------------------------------------------


def tokens_in_blocks(backbone) -> list[int]:
    lengths = []
    backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    return lengths


@pytest.mark.parametrize(("mask_ratio", "num_kept"), [(0.0, 144), (0.05, 136), (0.1, 129), (0.75, 36)])
def test_mask_ratio_is_the_share_of_tokens_that_the_blocks_miss(mask_ratio, num_kept):
    backbone = small("vit_t", mask_ratio=mask_ratio)
    lengths = tokens_in_blocks(backbone)
    backbone(images())
    backbone.eval()(images())
    assert lengths == [num_kept, 144]


def test_each_image_has_its_own_mask_and_lost_places_hold_the_mask_token():
    backbone = small("vit_t", mask_ratio=0.25, drop_path_rate=0.0)
    same = images(1).expand(6, -1, -1, -1)
    with torch.no_grad():
        backbone.mask_token.fill_(5.0)
        tokens = backbone.trunk(same)  # (6, 144, 64)
        whole = backbone.eval().trunk(same)
    lost = (tokens == 5.0).all(dim=2)
    assert lost.sum(dim=1).tolist() == [36] * 6
    assert len({tuple(row) for row in lost.tolist()}) == 6
    # Kept tokens are in their own places: each is nearest to what it is when attention sees all of them.
    similarity = torch.cdist(tokens[0][~lost[0]], whole[0])
    assert torch.equal(similarity.argmin(dim=1), (~lost[0]).nonzero().squeeze(1))


def test_without_masks_and_drop_path_identical_images_stay_identical():
    backbone = small("vit_t", mask_ratio=0.0, drop_path_rate=0.0)
    tokens = backbone.trunk(images(1).expand(4, -1, -1, -1))
    assert (tokens - tokens[0]).abs().max() < 1e-5
    tokens = small("vit_t", mask_ratio=0.0, drop_path_rate=0.5).trunk(images(1).expand(4, -1, -1, -1))
    assert (tokens - tokens[0]).abs().max() > 1e-3


def test_drop_path_skips_whole_samples_and_keeps_the_mean():
    block = small("vit_t", drop_path_rate=0.25).blocks[-1]
    torch.manual_seed(4)
    branch = block._some_samples(torch.ones(20_000, 2, 3))
    assert branch.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(branch.amax(dim=(1, 2)), branch.amin(dim=(1, 2)))
    assert branch.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(block.eval()._some_samples(torch.ones(3, 2, 3)), torch.ones(3, 2, 3))


def test_evaluation_draws_no_random_numbers():
    backbone = small("vit_t", mask_ratio=0.5, drop_path_rate=0.5, dropout=0.5).eval()
    state = torch.get_rng_state()
    backbone(images())
    assert torch.equal(torch.get_rng_state(), state)


# ---- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("r05", {}, r"unknown network 'r05' .*did you mean 'r50'"),
        (
            "mbf",
            {"block": (1, 1, 1, 1)},
            r"no setting 'block' \(it has blocks, scale\); did you mean 'blocks'",
        ),
        ("r50", {"mask_ratio": 0.1}, r"network 'r50' has no setting 'mask_ratio'"),
        ("r50", {"blocks": (1, 2, 3)}, r"blocks takes 4 whole numbers of at least 1, got \(1, 2, 3\)"),
        ("mbf", {"scale": 0.5}, r"scale takes 1 whole number"),
        ("vit_t", {"mask_ratio": 1.0}, r"mask_ratio is a share in \[0, 1\), got 1.0"),
        ("vit_t", {"drop_path_rate": -0.1}, r"drop_path_rate is a share in \[0, 1\), got -0.1"),
        ("vit_t", {"num_heads": 7}, r"width 256 is not divisible by num_heads 7"),
        ("r18", {"num_features": 0}, r"num_features takes 1 whole number"),
        ("r18", {"dropout": 1.5}, r"dropout"),
    ],
)
def test_a_wrong_name_or_setting_is_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        on_meta(name, **settings)


@pytest.mark.parametrize(
    "batch", [torch.zeros(2, 3, 128, 128), torch.zeros(2, 112, 112, 3), torch.zeros(2, 3, 112, 112).byte()]
)
def test_images_of_another_kind_are_named(batch):
    with pytest.raises(ValueError, match=r"takes float images \(N, 3, 112, 112\) in \[-1, 1\], got"):
        small("mbf")(batch)


# ---- files -----------------------------------------------------------------------------------------------


def same_outputs(backbone, original) -> bool:
    return torch.equal(backbone(images()), original.eval()(images()))


@pytest.mark.parametrize(("name", "input_order"), list(zip(SMALL, ["RGB", "BGR"] * 2)))
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

    def full_disk(content, path):
        Path(path).write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_backbone(file, small("mbf", num_features=32), **settings)
    assert same_outputs(load_backbone(file), original)
    assert [f.name for f in tmp_path.iterdir()] == ["model.pt"]


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


@pytest.mark.parametrize("name", [name for name in MODEL_NAMES if name != "r2060"])  # takes ten seconds
def test_keys_and_shapes_tell_the_network(name, tmp_path):
    # Every tensor of the file is one number, repeated: nothing large is written or read.
    weights = {key: torch.zeros(()).expand(shape) for key, shape in shapes(name).items()}
    torch.save(weights, tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").stat().st_size < 20e6
    network = load_backbone(tmp_path / "weights.pt").network
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
        (b"\xff\xd8\xff\xe0 a picture", {}, "is no model file, or a damaged one"),
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
def test_a_wrong_file_is_one_clear_line(content, arguments, message, tmp_path):
    if content == "r34":
        content = {key: torch.zeros(()).expand(shape) for key, shape in KEYS["r34"].items()}
    write(tmp_path / "model.pt", content)
    with pytest.raises(ValueError, match=message) as error:
        load_backbone(tmp_path / "model.pt", **arguments)
    assert str(error.value).startswith((str(tmp_path / "model.pt"), "unknown network"))
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
