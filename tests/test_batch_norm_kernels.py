"""BatchNorm with PReLU and a shortcut in GPU kernels, in Triton's interpreter: the numbers of PyTorch."""

import copy
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from easydict import EasyDict as edict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from backbones import choose_kernels, get_model
from backbones.batch_norm import batch_norm, batch_norm_and_input, in_sequence
from backbones.kernels import choice, launch
from backbones.kernels.launch import Tiles
from helpers.new_memory import fill_new_memory
from losses.input_gradient import only_input_gradient
from ranks.sync_batch_norm import convert_sync_batch_norm

CPU = torch.device("cpu")
SMALL = {  # networks in which every kind of block is there
    "r18": {"blocks": (1, 1, 1, 1)},
    "mbf": {"blocks": (1, 1, 1, 1), "scale": 1},
    "ir_se_50": {"blocks": (1, 1, 1, 1)},
}


@pytest.fixture
def passes():
    """The kernels' forward passes so far; each has one number of channels."""
    counted = []
    real = launch.Kernels.normalise

    def watched(self, x, *rest):
        counted.append(x.shape[1])
        return real(self, x, *rest)

    with patch.object(launch.Kernels, "normalise", watched):
        yield counted


@dataclass
class Case:
    """A BatchNorm with what stands beside it, and numbers for it."""

    shape: tuple[int, int, int, int]
    has_prelu: bool = True
    has_shortcut: bool = True
    offset: float = 3.0  # mean of x, in units of its spread
    seed: int = 0

    def __post_init__(self):
        random = torch.Generator().manual_seed(self.seed)
        channels = self.shape[1]
        self.norm, self.prelu = nn.BatchNorm2d(channels), nn.PReLU(channels)
        for parameter in (self.norm.weight, self.norm.bias, self.prelu.weight):
            parameter.data.uniform_(-1, 2, generator=random)
        self.x, self.shortcut, self.gradient, self.beside = (
            torch.randn(self.shape, generator=random) for _ in range(4)
        )
        self.x = 2 * (self.x + self.offset)

    def run(self, dtype: torch.dtype, kernels: bool) -> dict[str, Tensor]:
        """Result, gradients and running statistics: by the kernels, or in float64 of the same numbers."""
        norm, prelu = copy.deepcopy(self.norm), copy.deepcopy(self.prelu)
        norm.kernels = kernels
        tensors = [t.to(dtype) for t in (self.x, self.shortcut, self.gradient, self.beside)]
        if not kernels:
            norm, prelu, tensors = norm.double(), prelu.double(), [t.double() for t in tensors]
        tensors = [t.to(memory_format=torch.channels_last) for t in tensors]
        x, shortcut = (t.requires_grad_() for t in tensors[:2])
        if self.has_prelu or self.has_shortcut:
            beside = prelu if self.has_prelu else None, shortcut if self.has_shortcut else None
            results = [batch_norm(norm, x, *beside)]
        else:
            results = [*batch_norm_and_input(norm, x)]
        torch.autograd.backward(results, tensors[2 : 2 + len(results)])
        found = dict(y=results[0].detach(), x=x.grad, weight=norm.weight.grad, bias=norm.bias.grad)
        found |= {"slope": prelu.weight.grad} if self.has_prelu else {}
        found |= {"shortcut": shortcut.grad} if self.has_shortcut else {}
        return found | dict(norm.named_buffers())

    def check(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Compare: sums may be off by rounding in float32, tensors by that and one rounding to their type."""
        got, exact = self.run(dtype, kernels=True), self.run(dtype, kernels=False)
        assert got.keys() == exact.keys()
        variance = self.x.double().var((0, 2, 3), correction=0)
        steepest = (self.norm.weight / (variance + self.norm.eps).sqrt()).abs().max().item()
        for name, value in exact.items():
            scale = max(value.abs().max().item(), 4 * steepest if name == "x" else 4.0)
            rounding = torch.finfo(dtype).eps if name in ("x", "y", "shortcut") else 0
            error = (got[name].double() - value).abs().max().item() / scale
            assert error <= 1e-5 + rounding, (name, error)
            assert got[name].is_contiguous(memory_format=torch.channels_last) or value.ndim < 4
        assert got["y"].dtype == got["x"].dtype == dtype
        return got


# ---- exactness


@settings(max_examples=20)
@given(
    shape=st.tuples(
        st.integers(1, 4), st.sampled_from([1, 3, 24, 64, 70]), st.integers(1, 6), st.integers(2, 6)
    ),
    has_prelu=st.booleans(),
    has_shortcut=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    tiles=st.builds(
        Tiles,
        numbers=st.sampled_from([128, 1024]),
        channels=st.sampled_from([16, 64]),
        programs=st.sampled_from([1, 3, 16]),
        combined=st.sampled_from([1, 8]),
    ),
    offset=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_any_tile_gives_the_numbers_of_float64(
    shape, has_prelu, has_shortcut, dtype, tiles, offset, seed
):
    with patch.object(launch, "ON_CPU", tiles):
        Case(shape, has_prelu, has_shortcut, offset, seed).check(dtype)


def test_a_mean_a_thousand_times_the_spread_leaves_the_variance_its_digits():
    """E[x²] − mean² is off by percents there, and the numbers themselves by 3e-5 of the spread."""
    with patch.object(launch, "ON_CPU", Tiles(numbers=1024, channels=16, programs=8)):
        case = Case((8, 6, 8, 8), offset=1000.0)
        case.norm.momentum = 1.0
        got, exact = case.run(torch.float32, kernels=True), case.run(torch.float32, kernels=False)
    torch.testing.assert_close(got["running_var"].double(), exact["running_var"], rtol=1e-4, atol=0)
    torch.testing.assert_close(got["y"].double(), exact["y"], rtol=0, atol=1e-3)
    naive = case.x.square().mean((0, 2, 3)) - case.x.mean((0, 2, 3)).square()
    assert (naive / case.x.double().var((0, 2, 3)) - 1).abs().max() > 0.01


@pytest.mark.parametrize("has_prelu", [True, False])
def test_it_does_not_matter_what_memory_held_before(monkeypatch, has_prelu):
    case = Case((3, 20, 3, 5), has_prelu, has_shortcut=False)
    with patch.object(launch, "ON_CPU", Tiles(numbers=256, channels=16, programs=12)):
        expected = case.run(torch.float16, kernels=True)
        fill_new_memory(monkeypatch)
        for name, value in case.run(torch.float16, kernels=True).items():
            assert torch.equal(value, expected[name]), name


def test_a_number_that_is_none_is_not_hidden():
    case = Case((2, 3, 4, 4))
    case.x[0, 1, 2, 3] = math.nan
    got = case.run(torch.float32, kernels=True)
    assert got["y"][:, 1].isnan().all()
    assert got["running_var"].isnan().tolist() == [False, True, False]
    assert not got["y"][:, [0, 2]].isnan().any()


def test_gradients_of_another_layout_are_taken_and_shortcut_s_is_the_result_s():
    case = Case((2, 5, 4, 3), has_prelu=False)
    case.norm.kernels = True
    x = case.x.to(memory_format=torch.channels_last).requires_grad_()
    shortcut = case.shortcut.to(memory_format=torch.channels_last).requires_grad_()
    batch_norm(case.norm, x, None, shortcut).backward(case.gradient.contiguous())
    torch.testing.assert_close(x.grad, case.run(torch.float32, kernels=True)["x"], rtol=1e-6, atol=1e-6)
    assert torch.equal(shortcut.grad, case.gradient)


# ---- whole networks


def train(backbone: nn.Module, num_steps: int) -> list[Tensor]:
    """Losses, weights, running statistics and last gradients.

    The images are small, as the interpreter is slow: the tail, which wants 112 pixels, gets maps of its own.
    """
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.01, momentum=0.9)
    dtype, found = next(backbone.parameters()).dtype, []
    for step in range(num_steps):
        random = torch.Generator().manual_seed(step)
        images = torch.randn(8, 3, 32, 32, generator=random).to(dtype, memory_format=torch.channels_last)
        maps = torch.randn(4, 512, 7, 7, generator=random).to(dtype, memory_format=torch.channels_last)
        optimizer.zero_grad()
        trunk, tail = backbone.trunk(images), backbone.tail(maps)
        of_trunk, of_tail = (torch.randn(t.shape, generator=random).to(dtype) for t in (trunk, tail))
        loss = (trunk - of_trunk).square().mean() + (tail - of_tail).square().mean()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    gradients = [p.grad for p in backbone.parameters() if p.requires_grad]
    return [*found, *backbone.state_dict().values(), *gradients]


def config(**changes) -> edict:
    settings = dict(backbone_kernels=True, precision="fp32", channels_last=True, compile=False, network="r18")
    return edict(settings | changes)


def network(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    backbone = get_model(name, num_features=8, **SMALL[name], **options)
    return backbone.to(memory_format=torch.channels_last).train()


def errors(got: list[Tensor], exact: list[Tensor]) -> Tensor:
    """Of each tensor, relative to its largest number, or to 1."""
    assert len(got) == len(exact)
    scales = [max(1.0, b.abs().max().item()) for b in exact]
    return torch.tensor([(a - b).abs().max().item() / s for a, b, s in zip(got, exact, scales)])


@pytest.mark.parametrize("name", SMALL)
def test_a_network_trains_as_with_pytorch_and_every_batch_norm_runs_in_the_kernels(name, passes):
    plain, ours = network(name), network(name)
    choose_kernels(config(), ours, CPU)
    steps = 1 if name == "ir_se_50" else 2
    exact, expected = train(network(name).double(), steps), train(plain, steps)
    assert not passes
    got = train(ours, steps)
    assert errors(got, exact).max() < max(1e-5, 1.5 * errors(expected, exact).max())
    num_norms = sum(isinstance(part, nn.BatchNorm2d) for part in ours.modules())
    assert len(passes) == steps * num_norms
    assert ours.state_dict().keys() == plain.state_dict().keys()


def test_recomputed_blocks_move_running_statistics_once(passes):
    found = []
    for recomputes in (False, True):
        backbone = network("r18", grad_checkpointing=recomputes)
        choose_kernels(config(), backbone, CPU)
        x = torch.randn(4, 64, 6, 6, generator=torch.Generator().manual_seed(1))
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        backbone.run_blocks(backbone.layer1, x).square().sum().backward()
        gradients = [parameter.grad for parameter in backbone.layer1.parameters()]
        found.append([x.grad, *gradients, *backbone.buffers()])
    assert len(passes) == 4 + 4 + 4
    assert all(torch.equal(a, b) for a, b in zip(*found))


def small_block() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.PReLU(6)).to(
        memory_format=torch.channels_last
    )


def images_of(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 3, 6, 6, dtype=dtype).to(memory_format=torch.channels_last)


def test_a_pass_for_the_input_s_gradient_leaves_no_trace(passes):
    block, plain = small_block(), small_block()
    choose_kernels(config(), block, CPU)
    before, images = copy.deepcopy(block.state_dict()), images_of()
    gradients = []
    for one in (block, plain):
        x = images.clone().requires_grad_()
        with only_input_gradient(one):
            in_sequence(one, x).square().sum().backward()
        gradients.append(x.grad)
        assert all(parameter.grad is None for parameter in one.parameters())
    assert len(passes) == 1
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())


def test_frozen_weights_get_no_gradient_and_the_others_theirs():
    block, plain = small_block(), small_block()
    choose_kernels(config(), block, CPU)
    images = images_of()
    for one in (block, plain):
        one[1].weight.requires_grad_(False)
        one[0].requires_grad_(False)
        in_sequence(one, images).square().sum().backward()
        assert one[1].weight.grad is None
    for a, b in ((block[1].bias, plain[1].bias), (block[2].weight, plain[2].weight)):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)


def test_a_second_derivative_is_refused():
    block = small_block()
    choose_kernels(config(), block, CPU)
    (first,) = torch.autograd.grad(
        in_sequence(block, images_of()).square().sum(), block[1].weight, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# ---- when they are used


def ignore(*_) -> None:
    """A hook."""


CHANGES = {
    "evaluation": lambda block: block.eval(),
    "frozen statistics": lambda block: block[1].eval(),
    "float64": lambda block: block.double(),
    "no weights": lambda block: setattr(block[1], "affine", False),
    "a mean over all batches": lambda block: setattr(block[1], "momentum", None),
    "one slope for all": lambda block: block.__setitem__(2, nn.PReLU()),
    "a hook": lambda block: block[2].register_forward_hook(ignore),
    "a hook of the backward pass": lambda block: block[1].register_full_backward_hook(ignore),
    "statistics of all ranks": convert_sync_batch_norm,
    "contiguous": lambda block: block.to(memory_format=torch.contiguous_format),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_kernels_do_not_know_runs_in_pytorch(change, passes):
    block, plain = small_block(), small_block()
    for one in (block, plain):
        CHANGES[change](one)
    choose_kernels(config(backbone_kernels=False), block, CPU)
    block[1].kernels = True
    images = images_of(block[0].weight.dtype)
    images = images.contiguous() if change == "contiguous" else images
    got, expected = in_sequence(block, images), plain(images)
    assert not passes
    assert torch.equal(got, expected)


def test_a_compiler_sees_pytorch_s_layers(passes):
    block = small_block()
    choose_kernels(config(), block, CPU)
    images = images_of()
    run = torch.compile(lambda x: in_sequence(block, x), backend="eager", fullgraph=True)
    torch.testing.assert_close(run(images), in_sequence(block, images))
    assert len(passes) == 1


def test_one_image_of_one_place_is_pytorch_s_error():
    norm = nn.BatchNorm2d(3)
    choose_kernels(config(), nn.Sequential(norm), CPU)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        batch_norm(norm, torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("kernels", ["auto", False])
def test_off_and_auto_use_none_here(kernels, passes):
    assert not choice.MEASURED
    block = small_block()
    choose_kernels(config(backbone_kernels=kernels), block, CPU)
    in_sequence(block, images_of())
    assert not passes


@pytest.mark.parametrize(
    ("card", "changes", "expected"),
    [
        ((9, 0), {}, True),
        ((8, 0), {}, False),
        ((9, 0), {"precision": "fp16"}, False),
        ((9, 0), {"channels_last": False}, False),
        ((9, 0), {"compile": True}, False),
    ],
)
def test_auto_means_on_where_a_row_is_measured_and_they_can_run(card, changes, expected, monkeypatch):
    monkeypatch.setattr(choice, "MEASURED", {((9, 0), "bf16")})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card)
    block = small_block()
    cfg = config(**{"backbone_kernels": "auto", "precision": "bf16", **changes})
    choose_kernels(cfg, block, torch.device("cuda"))
    assert block[1].kernels is expected
    monkeypatch.setattr(choice, "has_triton", lambda: False)
    choose_kernels(cfg, block, torch.device("cuda"))
    assert not block[1].kernels


def test_what_cannot_be_is_an_error_of_one_line(monkeypatch):
    with pytest.raises(ValueError, match=re.escape("network=vit_t has no BatchNorm2d that learns from")):
        choose_kernels(config(network="vit_t"), nn.Linear(2, 2), CPU)
    with pytest.raises(ValueError, match="has no BatchNorm2d that learns from the images of one rank"):
        choose_kernels(config(), small_block().eval(), CPU)
    monkeypatch.setattr("triton.knobs.runtime.interpret", False)
    with pytest.raises(
        ValueError, match=r"^backbone_kernels=True needs a GPU \(or, for tests, TRITON_INTERP"
    ):
        choose_kernels(config(), small_block(), CPU)
    monkeypatch.setattr(choice, "has_triton", lambda: False)
    with pytest.raises(
        ValueError, match="needs the package triton, which is not installed; allowed are 'auto'"
    ):
        choose_kernels(config(), small_block(), CPU)


def test_an_installation_without_triton_trains_and_says_nothing():
    """The import of triton fails here, as it does where it is not installed."""
    script = """
import sys
sys.modules["triton"] = None
import torch
from easydict import EasyDict
from backbones import choose_kernels, get_model
network = get_model("mbf", num_features=8, blocks=(1, 1, 1, 1), scale=1).to(memory_format=torch.channels_last)
cfg = EasyDict(backbone_kernels="auto", precision="fp32", channels_last=True, compile=False)
choose_kernels(cfg, network, torch.device("cpu"))
network(torch.randn(2, 3, 112, 112)).sum().backward()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
