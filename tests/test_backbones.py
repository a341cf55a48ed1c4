"""The networks keep their promises in every family, and name a user's mistakes."""

import warnings

import pytest
import torch

from backbones import get_model
from backbones.iresnet import IResNet
from helpers.backbone_cases import SMALL, case, images, on_meta, small, small_networks, weighted

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


WITH_BOTTLENECK = ("ir_152", {"blocks": (1, 1, 1, 1)})


@pytest.mark.parametrize(("name", "settings"), [case(*item) for item in (*SMALL.items(), WITH_BOTTLENECK)])
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
            if not list(module.children()):
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
    convolution = small("ir_18").body[3].res_layer[1].weight  # He et al., by outputs: 128 × 3 × 3 of them
    assert convolution.std().item() == pytest.approx((2 / (convolution.shape[0] * 9)) ** 0.5, rel=0.02)
    linear = small("mbf").features.layers[2].weight
    assert linear.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.03)
    transformer = small("vit_t")
    for tensor in (transformer.pos_embed, transformer.mask_token, transformer.blocks[1].mlp.fc2.weight):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.3)
    assert transformer.blocks[1].mlp.fc2.bias.abs().max() == 0


# ---- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("r05", {}, r"unknown network 'r05' .*did you mean 'r50'"),
        (
            "mbf",
            {"block": (1, 1, 1, 1)},
            r"no setting 'block'; did you mean 'blocks'\? \(it has: blocks, scale\)",
        ),
        ("r50", {"mask_ratio": 0.1}, r"network 'r50' has no setting 'mask_ratio'"),
        ("r50", {"blocks": (1, 2, 3)}, r"blocks=\(1, 2, 3\) is of the wrong type: it has to be 4 values"),
        ("r50", {"blocks": (1, 2, 3, 0)}, r"blocks takes 4 whole numbers of at least 1, got \(1, 2, 3, 0\)"),
        ("r50", {"blocks": 3}, r"blocks=3 is of the wrong type"),
        ("ir_50", {"bottleneck": "maybe"}, r"bottleneck='maybe' is of the wrong type"),
        ("mbf", {"scale": 0.5}, r"scale=0.5 is of the wrong type: it has to be an integer"),
        ("vit_t", {"depth": "abc"}, r"depth='abc' is of the wrong type"),
        ("vit_t", {"width": 0}, r"width takes 1 whole number of at least 1"),
        ("vit_t", {"num_heads": 0}, r"num_heads takes 1 whole number of at least 1"),
        ("vit_t", {"mask_ratio": "x"}, r"mask_ratio='x' is of the wrong type"),
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


def test_a_family_without_its_package_is_one_clear_line_and_its_tests_are_skipped(monkeypatch):
    monkeypatch.setattr(IResNet, "package", "no_such_package")
    with pytest.raises(ValueError, match="'r18' needs the package no_such_package, which is not installed"):
        get_model("r18")
    (mark,) = case("r18").marks
    assert mark.args == (True,)
    monkeypatch.setattr(IResNet, "package", "torch")
    on_meta("r18")
    (mark,) = case("r18").marks
    assert mark.args == (False,)


@pytest.mark.parametrize(
    "batch", [torch.zeros(2, 3, 128, 128), torch.zeros(2, 112, 112, 3), torch.zeros(2, 3, 112, 112).byte()]
)
def test_images_of_another_kind_are_named(batch):
    with pytest.raises(ValueError, match=r"takes float images \(N, 3, 112, 112\) in \[-1, 1\], got"):
        small("mbf")(batch)


def test_bytes_as_numbers_are_refused_and_a_division_by_255_is_a_warning():
    network, pixels = small("mbf").eval(), images(1)
    with pytest.raises(ValueError, match=r"from 0\.\d+ to 25\d.*, as bytes are: .* map bytes v to"):
        network((pixels + 1) * 127.5)
    with pytest.warns(UserWarning, match=r"from .* to .*: if they were divided by 255, a backbone takes"):
        network((pixels + 1) / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(pixels)
        network(torch.zeros(1, 3, 112, 112))
        network(torch.zeros(0, 3, 112, 112))


@small_networks
def test_a_network_outside_training_can_be_traced_for_any_batch(name):
    network = small(name).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every check of a shape
        traced = torch.jit.trace(network, images(1))
    torch.testing.assert_close(traced(images(3)), network(images(3)), rtol=0, atol=1e-5)
