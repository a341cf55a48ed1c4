"""The networks equal the public ones: keys, shapes, sizes and recorded outputs."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.backbone_cases import images, on_meta, shapes

GOLDENS = Path(__file__).parent / "goldens"
KEYS = json.loads((GOLDENS / "backbones_keys.json").read_text())
OUTPUTS = np.load(GOLDENS / "backbones.npz")


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
