"""The network of a run: filled with weights in their own colour order, frozen in parts, or one clear line."""

import re
import shlex

import numpy as np
import pytest
import torch

from backbones import build_backbone, get_model, load_backbone, load_teacher, save_backbone
from backbones.pretrained import freeze
from eval.features import evaluating, extract
from helpers.backbone_cases import SMALL, images, small, small_networks
from helpers.job_files import load
from losses import build_loss
from partial_fc import PartialFC
from training.fine_tuning import HeadWarmup, layer_of, levels_of, rates_of_layers, set_learning_rate
from training.optimizer import build_optimizer

CPU = torch.device("cpu")


def job(name: str, *overrides: str, **settings):
    """A config with this small network."""
    args = [f"network={name}", "embedding_size=32", f"network_args={SMALL[name] | settings}"]
    return load(*(text.replace("True", "true") for text in args), *overrides)


@pytest.fixture
def weights(tmp_path):
    """save(name, order) writes a trained small network, and returns its path."""

    def save(name: str, order: str = "RGB"):
        network = small(name)
        network(images(8))  # statistics of its own
        path = tmp_path / f"{name}_{order}.pt"
        names = dict(network=name, num_features=32, network_args=SMALL[name])
        save_backbone(path, network, **names, input_order=order)
        return path

    return save


@small_networks
@pytest.mark.parametrize(("order", "lora"), [("RGB", "{}"), ("BGR", "None")])
def test_the_first_embeddings_are_the_source_s_in_its_own_colour_order(name, order, lora, weights):
    path = weights(name, order)
    faces = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    network = build_backbone(job(name, f"pretrained={path}", f"lora={lora}"))
    assert network.input_order == order
    expected, _ = extract(load_backbone(path), faces)
    found, _ = extract(network, faces)
    assert np.array_equal(found, expected)
    turned, _ = extract(network, faces[..., ::-1].copy())
    assert not np.allclose(turned, expected, rtol=1e-2)


def test_bare_weights_of_an_ambiguous_family_need_input_order(tmp_path):
    torch.save(get_model("ir_18", num_features=16).state_dict(), tmp_path / "w.pt")
    overrides = ["network=ir_18", "embedding_size=16", f"pretrained={tmp_path}/w.pt"]
    with pytest.raises(ValueError, match="does not tell its colour order"):
        build_backbone(load(*overrides))
    assert build_backbone(load(*overrides, "input_order=BGR")).input_order == "BGR"


def test_weights_of_another_network_are_refused_with_the_settings_that_fit(weights):
    path = weights("mbf")
    with pytest.raises(ValueError, match="is another network than network='r18'") as error:
        build_backbone(load("network=r18", f"pretrained={path}"))
    fitting = re.search(r"set (network=.*)$", str(error.value))[1]
    words = shlex.split(fitting)  # as a shell does with what is pasted into it
    assert [word.partition("=")[0] for word in words] == ["network", "embedding_size", "network_args"]
    assert build_backbone(load(*words, f"pretrained={path}")).input_order == "RGB"


def test_training_settings_of_the_network_need_not_be_those_of_the_file(weights):
    cfg = job("vit_t", f"pretrained={weights('vit_t')}", mask_ratio=0.5, drop_path_rate=0.3)
    assert build_backbone(cfg).num_kept == 72


# ---------------------------------------------------------------- frozen parts


@small_networks
def test_what_is_frozen_gets_no_gradient_and_changes_in_no_bit(name, weights):
    whole = dict(small(name).named_children())
    part = next(key for key, child in whole.items() if any(True for _ in child.parameters()))
    network = build_backbone(job(name, f"pretrained={weights(name)}", f"freeze=[{part}]")).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(images(4)).square().sum().backward()
    frozen = {key for key, p in network.named_parameters() if not p.requires_grad}
    assert {key for key, _ in whole[part].named_parameters(part)} <= frozen
    after = network.state_dict()
    inside = [key for key in before if key.startswith(f"{part}.")]
    assert all(torch.equal(before[key], after[key]) for key in inside)
    others = [key for key in before if key.endswith("running_mean") and key not in inside]
    assert any(not torch.equal(before[key], after[key]) for key in others)


@small_networks
def test_freeze_bn_keeps_all_statistics_and_lets_weights_learn(name, weights):
    network = build_backbone(job(name, f"pretrained={weights(name)}", "freeze_bn=true")).train()
    plain = build_backbone(job(name, f"pretrained={weights(name)}"))
    before = {key: value.clone() for key, value in network.named_buffers()}
    embeddings = network(images(1))  # one image: BatchNorm over it would fail
    embeddings.sum().backward()
    assert all(torch.equal(before[key], value) for key, value in network.named_buffers())
    learns = [{k for k, p in each.named_parameters() if p.requires_grad} for each in (network, plain)]
    assert learns[0] == learns[1]


@small_networks
def test_a_wholly_frozen_network_is_in_training_what_it_is_in_evaluation(name, weights):
    network = build_backbone(job(name, f"pretrained={weights(name)}", "freeze=[*]", "dropout=0.5"))
    expected = network.eval()(images())
    assert torch.equal(network.train()(images()), expected)
    assert not network(images()).requires_grad


def test_evaluation_leaves_frozen_parts_frozen():
    network = small("mbf").train()
    freeze(network, ["layers.0", "layers.1"])
    with evaluating(network):
        assert not network.training
    assert network.training
    assert not network.layers[0].training
    assert network.layers[2].training


def test_a_pattern_that_fits_nothing_names_the_nearest():
    with pytest.raises(
        ValueError, match=r"freeze: 'layr1' is no part of this network; did you mean 'layer1'"
    ):
        freeze(small("r18"), ["layr1"])


# ---------------------------------------------------------------- teacher


def test_a_teacher_is_frozen_and_has_its_own_colour_order(weights):
    cfg = job("mbf", f"teacher={weights('ir_18', 'BGR')}")
    teacher = load_teacher(cfg, CPU)
    assert (teacher.input_order, teacher.training) == ("BGR", False)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert load_teacher(job("mbf"), CPU) is None
    with pytest.raises(ValueError, match="cannot be compared with embedding_size=8: set embedding_size=32"):
        load_teacher(load("embedding_size=8", f"teacher={cfg.teacher}"), CPU)


# ---------------------------------------------------------------- learning rates


def named_levels(network) -> dict[str, int]:
    levels = levels_of(network)
    return {key: levels[parameter] for key, parameter in network.named_parameters()}


@small_networks
def test_levels_count_from_the_output_to_the_input(name):
    network = small(name)
    levels = named_levels(network)
    assert min(levels.values()) == 0
    first = {"mbf": "layers.0", "r18": "conv1", "vit_t": "patch_embed.proj", "ir_18": "input_layer.0"}[name]
    assert levels[f"{first}.weight" if f"{first}.weight" in levels else f"{first}.layers.0.weight"] == max(
        levels.values()
    )
    last = [
        key for key in levels if key.startswith(("features", "feature.3", "output_layer.3", "output_layer.0"))
    ]
    assert 0 in [levels[key] for key in last]
    layers = {layer_of(key.rpartition(".")[0]): level for key, level in levels.items() if "." in key}
    assert sorted(set(layers.values())) == list(range(len(set(layers.values()))))


def test_blocks_of_a_stage_are_layers_of_their_own_and_adapters_belong_to_theirs():
    assert layer_of("layer1.0.conv1") == "layer1.0"
    assert layer_of("blocks.11.attn.qkv.parametrizations.weight.0") == "blocks.11"
    assert layer_of("conv1.parametrizations.weight") == "conv1"
    assert layer_of("bn2") == "bn2"
    network = small("vit_t")
    levels = named_levels(network)
    assert (
        levels["blocks.0.attn.qkv.weight"]
        == levels["blocks.0.mlp.fc2.bias"]
        == levels["blocks.1.norm1.weight"] + 1
    )
    assert levels["pos_embed"] == levels["patch_embed.proj.weight"]


def test_each_group_of_the_optimiser_has_its_share_of_the_learning_rate():
    network, head = small("vit_t"), PartialFC(build_loss("cosface"), 32, 5)
    cfg = load("lr=0.4", "lr_backbone=0.1", "layer_decay=0.5", "no_decay_norm_bias=true")
    optimizer = build_optimizer(cfg, network, head, 0.4, rates=rates_of_layers(cfg, network))
    factors = {p: group["lr_factor"] for group in optimizer.param_groups for p in group["params"]}
    assert factors[head.weight] == 1
    levels = levels_of(network)
    assert all(
        factors[p] == pytest.approx(0.25 * 0.5 ** levels[p]) for p in network.parameters() if p.requires_grad
    )
    set_learning_rate(optimizer, 0.2)
    assert all(group["lr"] == 0.2 * group["lr_factor"] for group in optimizer.param_groups)
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decays[p] for p in network.parameters() if p in decays and p.ndim <= 1} == {0.0}


def test_without_the_settings_the_groups_are_those_of_before():
    network, head = small("vit_t"), PartialFC(build_loss("cosface"), 32, 5)
    cfg = load("no_decay_norm_bias=true")
    optimizer = build_optimizer(cfg, network, head, 0.1, rates=rates_of_layers(cfg, network))
    assert [(g["name"], g["lr_factor"]) for g in optimizer.param_groups] == [
        ("backbone", 1),
        ("head", 1),
        ("no_decay", 1),
    ]


def test_nothing_that_learns_is_an_error():
    network, head = small("vit_t").requires_grad_(False), PartialFC(build_loss("cosface"), 32, 5)
    head.requires_grad_(False)
    with pytest.raises(ValueError, match="freeze leaves nothing that learns"):
        build_optimizer(load(), network, head, 0.1)


def test_a_head_warm_up_as_long_as_the_run_is_an_error():
    with pytest.raises(
        ValueError, match=r"is 9 steps, and the run has 9: the backbone would never learn; .*freeze"
    ):
        HeadWarmup(small("vit_t"), 9, 9)


def test_another_number_of_heads_is_another_network(tmp_path):
    """No weight has another shape for it."""
    args = dict(depth=1, width=64)
    save_backbone(
        tmp_path / "four.pt",
        get_model("vit_t", num_features=32, **args, num_heads=4),
        network="vit_t",
        num_features=32,
        network_args=args | dict(num_heads=4),
    )
    cfg = load(
        "network=vit_t",
        "embedding_size=32",
        "network_args={depth:1,width:64}",
        f"pretrained={tmp_path}/four.pt",
    )
    with pytest.raises(ValueError, match=r"is another network .*has 8 heads, there 4.*num_heads.: 4"):
        build_backbone(cfg)
    same = load(
        "network=vit_t",
        "embedding_size=32",
        "network_args={depth:1,width:64,num_heads:4}",
        f"pretrained={tmp_path}/four.pt",
    )
    build_backbone(same)


def test_head_warm_up_changes_nothing_in_the_backbone_and_ends():
    network = small("mbf").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    warmup = HeadWarmup(network, 2, 9)
    for step in (0, 1):
        with warmup(step):
            embeddings = network(images())
        assert not embeddings.requires_grad
        assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    with warmup(2):
        assert network(images()).requires_grad
    assert not torch.equal(
        before["conv_sep.layers.1.running_mean"], network.state_dict()["conv_sep.layers.1.running_mean"]
    )
