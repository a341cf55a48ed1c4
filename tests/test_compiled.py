"""A compiled backbone trains as one that is not, and where it cannot be compiled nothing else changes."""

import copy
import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from backbones import CompiledBackbone, get_model
from backbones.compiled import MAX_SHAPES
from backbones.layers import PReLU
from backbones.lora import add_lora
from helpers.aroface_cases import batch, make_backbone, make_head
from helpers.ranks import run_ranks
from losses.aroface import AlignmentPerturbation
from ranks.data_parallel import data_parallel
from utils.distributed import rank

SMALL = {
    "mbf": dict(blocks=(1, 1, 1, 1), scale=1, dropout=0.2),
    "vit_t": dict(width=16, depth=2, num_heads=2, dropout=0.2),  # drops paths and masks tokens, too
}


@pytest.fixture(autouse=True)
def forget_programs():
    """torch keeps the programs of a function, whatever network it belongs to, and stops at eight of them."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that runs what it is given as it is, and counts."""

    def __init__(self):
        self.num_programs = 0

    def __call__(self, graph, inputs):
        self.num_programs += 1
        return graph.forward


def fails(graph, inputs):
    raise OSError("no compiler\nsecond line")


def train(network: nn.Module, shape=(3, 112, 112), sizes=(4, 4, 3)) -> list[Tensor]:
    """Losses of some steps, then all weights, running statistics and last gradients."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    found = []
    for step, size in enumerate(sizes):
        torch.manual_seed(step)
        optimizer.zero_grad()
        embeddings = network(torch.randn(size, *shape))
        loss = (embeddings * torch.randn_like(embeddings)).sum().tanh() + embeddings.square().mean()
        loss.backward()
        found.append(loss.detach())
        optimizer.step()
        with torch.no_grad():
            network.eval()(torch.randn(2, *shape))  # an evaluation in between
        network.train()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return [*found, *network.parameters(), *network.buffers(), *gradients]


def assert_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, b.abs().max().item()))


def pair(network: nn.Module, backend: str) -> tuple[CompiledBackbone, nn.Module]:
    """The network compiled, and a copy that is not."""
    plain = copy.deepcopy(network)
    return CompiledBackbone(network.train(), backend=backend), plain.train()


@pytest.mark.parametrize("name", SMALL)
def test_a_compiled_network_trains_as_the_plain_one_with_the_same_random_numbers(name):
    torch.manual_seed(0)
    compiled, plain = pair(get_model(name, num_features=8, **SMALL[name]), "aot_eager")
    assert_equal(train(compiled, sizes=(4, 4)), train(plain, sizes=(4, 4)))
    assert not compiled._failed
    assert compiled.backbone.state_dict().keys() == plain.state_dict().keys()


def small_network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), PReLU(4), nn.Flatten(), nn.Dropout(0.3)
    return nn.Sequential(*layers, nn.Linear(4 * 36, 8), nn.BatchNorm1d(8))


@pytest.mark.slow
def test_the_compiler_s_code_trains_as_the_plain_network_with_the_same_dropout(caplog):
    compiled, plain = pair(small_network(), "inductor")
    # To try out what the processor has, and to compile all headers once, takes longer than these few kernels.
    quick = {"cpp.vec_isa_ok": False, "cpp_cache_precompile_headers": False}
    with torch._inductor.config.patch(quick):
        assert_equal(train(compiled, (3, 8, 8), (4, 4)), train(plain, (3, 8, 8), (4, 4)))
    assert not compiled._failed, caplog.text


def test_frozen_parts_and_adapters_are_compiled_too():
    network = small_network()
    add_lora(network, rank=2)
    network[1].requires_grad_(True)
    compiled, plain = pair(network, "aot_eager")
    assert_equal(train(compiled, (3, 8, 8)), train(plain, (3, 8, 8)))
    assert not compiled._failed
    assert parametrize.is_parametrized(compiled.backbone[0])
    assert compiled.backbone[0].parametrizations.weight.original.grad is None


def fails_backward(graph, inputs):
    from torch._dynamo.backends.common import aot_autograd

    return aot_autograd(fw_compiler=lambda graph, inputs: graph.forward, bw_compiler=fails)(graph, inputs)


@pytest.mark.parametrize("backend", [fails, fails_backward])
def test_where_compiling_fails_there_is_one_warning_and_the_plain_network(backend, caplog):
    compiled, plain = pair(small_network(), backend)
    with caplog.at_level(logging.WARNING):
        assert_equal(train(compiled, (3, 8, 8)), train(plain, (3, 8, 8)))
    (record,) = [record for record in caplog.records if "compile=true" in record.getMessage()]
    assert "OSError: no compiler" in record.getMessage()
    assert "second line" not in record.getMessage()


def test_images_that_fit_no_network_are_told_as_without_the_compiler():
    compiled = CompiledBackbone(get_model("mbf", num_features=8, **SMALL["mbf"]).train(), backend="aot_eager")
    with pytest.raises(ValueError, match="a backbone takes float images"):
        compiled(torch.zeros(2, 3, 50, 50))
    assert not compiled._failed


def test_each_batch_size_is_compiled_once_up_to_a_limit_and_evaluation_never():
    backend = Counting()
    compiled, plain = pair(small_network(), backend)
    sizes = [*range(3, 3 + MAX_SHAPES + 3)] * 2
    assert_equal(train(compiled, (3, 8, 8), sizes), train(plain, (3, 8, 8), sizes))
    assert backend.num_programs == MAX_SHAPES


def test_aroface_runs_through_the_compiled_network_and_warps_as_through_the_plain_one():
    backend, mixed = Counting(), []
    network, head = make_backbone(), make_head()
    for way in (network, CompiledBackbone(network, backend=backend)):
        for seed in (5, 6):
            torch.manual_seed(seed)
            mixed.append(AlignmentPerturbation()(way, head, *batch(40))[0])
    assert backend.num_programs == 1
    for plain, compiled in zip(mixed[:2], mixed[2:]):
        torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-6)
    assert all(parameter.requires_grad for parameter in network.parameters())


def train_on_a_rank() -> tuple[list[Tensor], list[Tensor]]:
    """What a compiled network and a plain one become."""
    return train_behind_ddp(is_compiled=True), train_behind_ddp(is_compiled=False)


def train_behind_ddp(is_compiled: bool) -> list[Tensor]:
    """Two steps of two micro-batches each."""
    network = small_network().train()
    way = CompiledBackbone(network, backend="aot_eager") if is_compiled else network
    ddp = data_parallel(way, torch.device("cpu"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for step in range(2):
        optimizer.zero_grad()
        torch.manual_seed(10 * step + rank())
        with ddp.no_sync():
            ddp(torch.randn(4, 3, 8, 8)).square().mean().backward()
        ddp(torch.randn(3, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    assert not getattr(way, "_failed", False)
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]


def test_ranks_that_compile_train_as_ranks_that_do_not():
    by_rank = run_ranks(2, train_on_a_rank)
    for compiled, plain in by_rank:
        assert_equal(compiled, plain)
    (one, _), (other, _) = by_rank
    num_weights = len([*small_network().parameters()])
    assert all(torch.equal(a, b) for a, b in zip(one[:num_weights], other[:num_weights]))


def test_a_world_of_one_trains_without_copies_of_gradients():
    network = small_network()
    ddp = data_parallel(network, torch.device("cpu"))
    with ddp.no_sync():
        ddp(torch.randn(4, 3, 8, 8)).sum().backward()
    assert type(ddp).__name__ == "NothingToAverage"
    assert all(parameter.grad is not None for parameter in network.parameters())
