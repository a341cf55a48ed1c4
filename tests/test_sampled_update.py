"""sampled_update="dense": weight decay and momentum move every centre, as in arcface_torch."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from helpers.ranks import run_ranks
from losses import build_loss
from partial_fc import PartialFC, initial_centres
from training.optimizer import build_optimizer
from training.row_optimizers import SGD, AdamW
from utils.distributed import rank, world_size

CLASSES, SIZE, BATCH, STEPS, SCALE = 23, 8, 6, 20, 8.0
LR, MOMENTUM, DECAY = 0.5, 0.9, 0.05


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    embeddings = torch.randn(BATCH, SIZE, generator=generator, dtype=torch.float64)
    return embeddings, torch.randint(CLASSES, (BATCH,), generator=generator)


def train(sampled_update: str, optimizer: str = "sgd") -> tuple[Tensor, list[Tensor]]:
    """This rank's centres after the steps, and the global ids of the classes that each step has sampled."""
    head = PartialFC(build_loss("cosface", s=SCALE), SIZE, CLASSES, sample_rate=0.3, seed=3).double()
    settings = dict(optimizer=optimizer, momentum=MOMENTUM, weight_decay=DECAY, no_decay_norm_bias=False)
    cfg = SimpleNamespace(**settings, sampled_update=sampled_update)
    ours, sampled = build_optimizer(cfg, nn.Linear(1, 1), head, lr=LR), []
    size = BATCH // world_size()
    mine = slice(rank() * size, (rank() + 1) * size)
    for step in range(STEPS):
        embeddings, labels = batch(step)
        ours.param_groups[-1]["lr"] = LR / (1 + step)
        head(embeddings[mine], labels[mine]).backward()
        assert head.weight.grad.is_sparse
        ours.step()
        ours.zero_grad()
        sampled.append(head.sampled)
    return head.weight.detach(), sampled


def reference(sampled: list[Tensor], optimizer: str = "sgd") -> Tensor:
    """The whole weight as one parameter, in torch's optimiser; rows that are not sampled have gradient 0."""
    weight = nn.Parameter(initial_centres(3, 0, CLASSES, SIZE).double())
    if optimizer == "sgd":
        plain = torch.optim.SGD([weight], lr=LR, momentum=MOMENTUM, weight_decay=DECAY, foreach=False)
    else:
        plain = torch.optim.AdamW([weight], lr=LR, betas=(MOMENTUM, 0.999), weight_decay=DECAY, foreach=False)
    for step, classes in enumerate(sampled):
        embeddings, labels = batch(step)
        plain.param_groups[0]["lr"] = LR / (1 + step)
        cos = nn.functional.normalize(embeddings) @ nn.functional.normalize(weight[classes]).T
        own = torch.searchsorted(classes, labels)
        margin = 0.4 * nn.functional.one_hot(own, len(classes))
        nn.functional.cross_entropy(SCALE * (cos - margin), own).backward()
        assert (weight.grad == 0).all(1).any()
        plain.step()
        plain.zero_grad()
    return weight.detach()


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_dense_is_the_optimiser_of_the_whole_weight_over_twenty_steps(optimizer, world):
    by_rank = run_ranks(world, train, "dense", optimizer)
    sampled = [torch.cat(parts) for parts in zip(*(sampled for _, sampled in by_rank))]
    expected = reference(sampled, optimizer)
    centres = torch.cat([weight for weight, _ in by_rank])
    assert (centres - expected).abs().max() < 1e-7 * expected.abs().max()
    sparse = torch.cat([weight for weight, _ in run_ranks(world, train, "sparse", optimizer)])
    assert (sparse - expected).abs().max() > 1e-2 * expected.abs().max(), "the measure tells them apart"


@pytest.mark.parametrize("kind", [SGD, AdamW])
@pytest.mark.parametrize("fused", [False, True])
def test_the_pass_over_all_rows_goes_in_pieces_and_equals_the_whole_to_the_last_bit(kind, fused, monkeypatch):
    monkeypatch.setattr("training.row_optimizers.ROWS_AT_A_TIME", 4)
    settings = dict(lr=0.1, weight_decay=0.1, fused=fused) | ({"momentum": 0.9} if kind is SGD else {})
    ours, whole = (nn.Parameter(torch.ones(11, 3)) for _ in range(2))
    optimizers = kind([ours], **settings), kind([whole], **settings)
    optimizers[0].moves_every_row = True
    for rows in ([0, 5], [5, 9]):
        values = torch.arange(6.0).view(2, 3)
        ours.grad = torch.sparse_coo_tensor(torch.tensor([rows]), values, ours.shape, check_invariants=True)
        whole.grad = ours.grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(ours, whole)
    first, second = optimizers[0].state[ours], optimizers[1].state[whole]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert set(optimizers[0].state) == {ours}  # no temporary block is left behind


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_skipped_step_moves_no_row(kind):
    weight = nn.Parameter(torch.ones(11, 3))
    optimizer = kind([weight], lr=0.1, weight_decay=0.1, fused=True)
    optimizer.moves_every_row = True
    for step, is_skipped in enumerate((True, False, True)):
        before = {"weight": weight.detach().clone()} | {
            n: v.clone() for n, v in optimizer.state[weight].items()
        }
        rows, values = torch.tensor([[0, 5]]), torch.full((2, 3), math.nan if is_skipped else 1.0)
        weight.grad = torch.sparse_coo_tensor(rows, values, weight.shape, check_invariants=True)
        optimizer.found_inf = torch.tensor(float(is_skipped))
        optimizer.step()
        after = {"weight": weight.detach(), **optimizer.state[weight]}
        unmoved = [name for name, value in before.items() if torch.equal(after[name], value)]
        assert (len(unmoved) == len(before)) == is_skipped, (step, unmoved)
