"""One step of PartialFC on given data, on any number of ranks, and the numbers that it has to give."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.interface_losses import InterfaceVariant
from helpers.loss_references import Variant
from partial_fc import PartialFC, initial_centres
from utils.distributed import rank, world_size
from utils.seeds import seed_of

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
    kernels: bool = False


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
        kernels=case.kernels,
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
        "grad_parameters": {f"grad_{name}": p.grad for name, p in head.loss.named_parameters()},
        "weight": head.weight.detach(),
        "sampled": head.sampled,
    }


def expected(case: Case, sampled: Tensor) -> dict[str, Tensor]:
    """Loss and gradients (B, D), (C, D) of one process with all logits of the sampled classes, in float64.

    A loss that draws is handed its random numbers, which are those of step 0 and its first micro-batch; one
    that learns its parameters, whose gradients are compared too.
    """
    embeddings, labels = data(case)
    embeddings = embeddings.double().requires_grad_()
    weight = centres(case).double().requires_grad_()
    margin_loss = make_head(case).loss
    parameters = {name: p.detach().double().requires_grad_() for name, p in margin_loss.named_parameters()}
    generator = torch.Generator().manual_seed(seed_of(case.seed, 0, 0, 3))
    draws = {name: numbers.double() for name, numbers in margin_loss.draw(generator, len(labels)).items()}
    own = torch.searchsorted(sampled, labels)
    loss = case.variant.expected(embeddings, weight[sampled], own, **draws, **parameters)
    loss.backward()
    gradients = {"grad_embeddings": embeddings.grad, "grad_weight": weight.grad}
    return {"loss": loss.detach(), **gradients, **{f"grad_{name}": p.grad for name, p in parameters.items()}}


def compared(case: Case, by_rank: list[dict]) -> dict[str, tuple[Tensor, Tensor]]:
    """What the ranks made of the loss and its gradients, each beside its reference."""
    reference = expected(case, torch.cat([result["sampled"] for result in by_rank]))
    got = {
        "loss": by_rank[0]["loss"],
        "grad_embeddings": torch.cat([result["grad_embeddings"] for result in by_rank]),
        "grad_weight": torch.cat([result["grad_weight"] for result in by_rank]),
        **by_rank[0]["grad_parameters"],
    }
    return {name: (got[name], value) for name, value in reference.items()}


def errors(case: Case, by_rank: list[dict]) -> dict[str, float]:
    """Largest error of the loss and of each gradient, each relative to the largest of its reference."""
    return {name: relative_error(*pair) for name, pair in compared(case, by_rank).items()}


def relative_error(value: Tensor, reference: Tensor) -> float:
    largest = reference.abs().max().item()
    error = (value.double() - reference).abs().max().item()
    return error / largest if largest > 0 else error
