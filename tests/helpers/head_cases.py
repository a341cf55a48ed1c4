"""One step of PartialFC on given data, on any number of ranks, and the numbers that it has to give."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.interface_losses import InterfaceVariant
from helpers.loss_references import Variant
from partial_fc import PartialFC, initial_centres
from utils.distributed import rank, world_size

EMBEDDING_SIZE = 8


@dataclass(frozen=True)
class Case:
    """`batches`: samples that each rank brings. `label_range`: labels are below it (None: num_classes)."""

    variant: Variant | InterfaceVariant
    engine: str
    batches: tuple[int, ...]
    num_classes: int = 23
    chunk_size: int | None = None
    sample_rate: float = 1.0
    label_range: int | None = None
    easy: bool = False
    seed: int = 11
    precision: str = "fp32"


def data(case: Case) -> tuple[Tensor, Tensor]:
    """Raw embeddings (B, D) and labels of the global batch, from far off their class to near it.

    With `easy` all are so near that the loss is nearly 0.
    """
    generator = torch.Generator().manual_seed(case.seed)
    size = sum(case.batches)
    labels = torch.randint(case.label_range or case.num_classes, (size,), generator=generator)
    directions = F.normalize(centres(case)[labels])
    nearness = torch.rand(size, 1, generator=generator) * 1.5 + (8 if case.easy else 0)
    noise = F.normalize(torch.randn(size, EMBEDDING_SIZE, generator=generator))
    length = 40 * torch.rand(size, 1, generator=generator) + 0.5
    return length * (directions * nearness + noise), labels


def centres(case: Case) -> Tensor:
    return initial_centres(case.seed, 0, case.num_classes, EMBEDDING_SIZE)


def make_head(case: Case) -> PartialFC:
    loss, regularizers = case.variant.make()
    return PartialFC(
        loss,
        EMBEDDING_SIZE,
        case.num_classes,
        engine=case.engine,
        chunk_size=case.chunk_size,
        sample_rate=case.sample_rate,
        regularizers=regularizers,
        seed=case.seed,
        precision=case.precision,
    )


def run_case(case: Case, dtype: torch.dtype = torch.float32) -> dict:
    """One step on this rank, with its share of the batch."""
    embeddings, labels = data(case)
    start = sum(case.batches[: rank()])
    mine = slice(start, start + case.batches[rank()])
    head = make_head(case).to(dtype)
    local = embeddings[mine].to(dtype).requires_grad_()
    loss = head(local, labels[mine])
    loss.backward()
    gradient = head.weight.grad
    return {
        "loss": loss.detach(),
        "terms": head.last_terms,
        "grad_embeddings": local.grad / world_size(),
        "grad_weight": gradient.to_dense(),
        "grad_rows": gradient._indices()[0] + head.class_start if gradient.is_sparse else None,
        "weight": head.weight.detach(),
        "sampled": head.sampled,
    }


def expected(case: Case, sampled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients (B, D), (C, D) of one process with all logits of the sampled classes, in float64."""
    embeddings, labels = data(case)
    embeddings = embeddings.double().requires_grad_()
    weight = centres(case).double().requires_grad_()
    loss = case.variant.expected(embeddings, weight[sampled], torch.searchsorted(sampled, labels))
    loss.backward()
    return loss.detach(), embeddings.grad, weight.grad


def compared(case: Case, by_rank: list[dict]) -> dict[str, tuple[Tensor, Tensor]]:
    """What the ranks made of loss and both gradients, each beside its reference."""
    reference = expected(case, torch.cat([result["sampled"] for result in by_rank]))
    got = (
        by_rank[0]["loss"],
        torch.cat([result["grad_embeddings"] for result in by_rank]),
        torch.cat([result["grad_weight"] for result in by_rank]),
    )
    names = ("loss", "grad_embeddings", "grad_weight")
    return dict(zip(names, zip(got, reference)))


def errors(case: Case, by_rank: list[dict]) -> dict[str, float]:
    """Largest error of the loss and of both gradients, each relative to the largest of its reference."""
    return {name: relative_error(*pair) for name, pair in compared(case, by_rank).items()}


def relative_error(value: Tensor, reference: Tensor) -> float:
    largest = reference.abs().max().item()
    error = (value.double() - reference).abs().max().item()
    return error / largest if largest > 0 else error
