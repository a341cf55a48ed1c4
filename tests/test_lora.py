"""Low-rank adapters: they change nothing at first, learn alone, and are in the weights of the saved file."""

import numpy as np
import pytest
import torch
from torch import nn

from backbones import get_model, load_backbone, save_backbone
from backbones.lora import add_lora, can_be_adapted, merged_state_dict
from helpers.backbone_cases import SMALL, images, small, small_networks, weighted


def adapted(name: str, **settings) -> nn.Module:
    """A small network with adapters that have learnt something."""
    network = small(name)
    add_lora(network, **settings)
    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
            assert key.endswith((".up", ".down"))
    return network


@pytest.mark.parametrize("name", ["mbf", "ir_18", "r18", "vit_t"])
def test_step_0_is_the_source_bit_for_bit_and_merged_equals_unmerged(name, tmp_path):
    torch.manual_seed(2)
    source = get_model(name, num_features=64).eval()
    source.input_order = "BGR" if name == "ir_18" else "RGB"
    with torch.no_grad():
        before = source(images())
        add_lora(source, rank=4)
        assert torch.equal(source(images()), before)
        for key, parameter in source.named_parameters():
            if key.endswith(".up"):
                nn.init.normal_(parameter, std=0.02)
        unmerged = source(images())
        save_backbone(tmp_path / "model.pt", source, network=name, num_features=64)
        loaded = load_backbone(tmp_path / "model.pt")
        merged = loaded(images())
    assert loaded.input_order == source.input_order
    assert not any("parametrizations" in key for key in loaded.state_dict())
    scale = unmerged.abs().max()
    assert (unmerged - before).abs().max() > 1e-3 * scale
    assert (merged - unmerged).abs().max() <= 1e-6 * scale


@small_networks
def test_the_merged_state_dict_has_the_keys_and_shapes_of_the_network_without(name):
    plain, network = small(name).state_dict(), adapted(name)
    merged = merged_state_dict(network)
    assert {k: v.shape for k, v in merged.items()} == {k: v.shape for k, v in plain.items()}
    assert merged_state_dict(small(name)).keys() == plain.keys()


@small_networks
def test_only_the_adapters_learn_and_every_one_does(name):
    network = adapted(name).train()
    weighted(network(images(4))).backward()
    learnt = {key for key, parameter in network.named_parameters() if parameter.grad is not None}
    layers = [n for n, m in small(name).named_modules() if can_be_adapted(m)]
    assert learnt == {f"{n}.parametrizations.weight.0.{part}" for n in layers for part in ("up", "down")}
    assert all(network.get_parameter(key).grad.abs().max() > 0 for key in learnt)


def test_convolutions_with_groups_are_left_alone():
    network = small("mbf")
    grouped = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    add_lora(network)
    assert grouped
    assert not any(hasattr(module, "parametrizations") for module in grouped)


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(4, 5, 3, padding=1)])
def test_the_weight_and_its_gradients_are_those_of_the_formula(layer):
    torch.manual_seed(3)
    network = nn.Sequential(layer).double()
    weight = layer.weight.detach().numpy().copy()
    add_lora(network, rank=2, alpha=3.0)
    adapter = layer.parametrizations.weight[0]
    nn.init.normal_(adapter.up)
    up, down = (p.detach().numpy() for p in (adapter.up, adapter.down))
    expected = weight + (1.5 * up @ down).reshape(weight.shape)
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, rtol=1e-14, atol=1e-15)
    x = (
        torch.randn(3, 6, dtype=torch.float64)
        if isinstance(layer, nn.Linear)
        else torch.randn(3, 4, 5, 5).double()
    )
    dense = torch.tensor(expected, requires_grad=True)
    run = (
        nn.functional.linear
        if isinstance(layer, nn.Linear)
        else lambda x, w, b: nn.functional.conv2d(x, w, b, padding=1)
    )
    (run(x, dense, layer.bias).sin().sum()).backward()
    network(x).sin().sum().backward()
    gradient = dense.grad.reshape(5, -1).numpy()
    np.testing.assert_allclose(adapter.up.grad.numpy(), 1.5 * gradient @ down.T, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(adapter.down.grad.numpy(), 1.5 * up.T @ gradient, rtol=1e-10, atol=1e-12)


def test_small_updates_survive_half_precision():
    layer = nn.Sequential(nn.Linear(64, 64))
    add_lora(layer, rank=1)
    nn.init.constant_(layer[0].parametrizations.weight[0].up, 1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer[0].weight
    adapter = layer[0].parametrizations.weight[0]
    expected = layer[0].parametrizations.weight.original + adapter.up @ adapter.down
    assert weight.dtype == torch.float32
    assert torch.equal(weight, expected)


def test_layers_are_chosen_by_pattern():
    network = adapted("vit_t", layers=["blocks.*.attn.qkv", "feature.2"])
    found = {key.split(".parametrizations")[0] for key in network.state_dict() if "parametrizations" in key}
    assert found == {*(f"blocks.{i}.attn.qkv" for i in range(SMALL["vit_t"]["depth"])), "feature.2"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "lora.rank=0 is out of range: it has to be >= 1"),
        ({"alpha": 0.0}, "lora.alpha=0.0 is out of range"),
        (
            {"layers": ["blockz.*.qkv"]},
            r"lora.layers: 'blockz.\*.qkv' is no linear layer or convolution without groups",
        ),
        ({"layers": ["feature.5"]}, "did you mean 'feature.2'|did you mean 'feature.0'"),
    ],
)
def test_a_mistake_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        add_lora(small("vit_t"), **settings)
