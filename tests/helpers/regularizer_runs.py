"""Three steps of a head with regularisers: on the ranks of a group, and as their papers' formulas say."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import build_loss, build_regularizer
from partial_fc import PartialFC, initial_centres
from utils.distributed import rank, world_size

NUM_CLASSES, EMBEDDING_SIZE, NUM_STEPS, LR = 23, 8, 4, 0.5
SCALE = 8.0  # logits that differ by more than 20 make torch's softplus round: 2e-9, then amplified
# Batches by rank; a world of W has the W-th entry. Twelve samples in all.
BATCHES = {1: (12,), 2: (5, 7), 3: (5, 0, 7)}
# Settings that make about half of these random samples noise, and the memory overflow and age.
NDR = {"weight": 2.0, "max_cos": 0.9, "min_k": 0.0, "memory_size": 7, "max_age": 3, "t_alpha": 0.5}


@dataclass(frozen=True)
class Run:
    """`regularizers`: name -> settings."""

    name: str
    engine: str
    sample_rate: float = 1.0
    loss: str = "cosface"

    @property
    def regularizers(self) -> dict[str, dict]:
        all_of_them = {"ndr": NDR, "disc": {"max_norm": 0.2}, "center": {"weight": 0.01, "alpha": 0.7}}
        all_of_them["ndr_all"] = {**NDR, "over": "all", "ramp": 6}
        return {n: h for n, h in all_of_them.items() if self.name in (n, "together")}


def data(step: int) -> tuple[Tensor, Tensor]:
    """Raw embeddings (B, D), float64, and labels, with classes that occur more than once."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(NUM_CLASSES // 2, (12,), generator=generator) * 2
    near = F.normalize(initial_centres(3, 0, NUM_CLASSES, EMBEDDING_SIZE).double()[labels])
    noise = torch.randn(12, EMBEDDING_SIZE, generator=generator, dtype=torch.float64)
    length = torch.rand(12, 1, generator=generator, dtype=torch.float64) * 20 + 1
    return length * F.normalize(near + 0.3 * noise), labels


def make_head(run: Run) -> PartialFC:
    regularizers = [build_regularizer(name.split("_")[0], **h) for name, h in run.regularizers.items()]
    settings = {"s": SCALE} if run.loss == "cosface" else {}
    return PartialFC(
        build_loss(run.loss, **settings),
        EMBEDDING_SIZE,
        NUM_CLASSES,
        engine=run.engine,
        chunk_size=4 if run.engine == "stream" else None,
        sample_rate=run.sample_rate,
        regularizers=regularizers,
        seed=3,
    ).double()


def train_on_ranks(run: Run, head: PartialFC | None = None, first_step: int = 0) -> dict:
    head = head or make_head(run)
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=LR)
    sizes = BATCHES[world_size()]
    start = sum(sizes[: rank()])
    result = {"loss": [], "sampled": [], "grad_embeddings": []}
    for step in range(first_step, NUM_STEPS):
        embeddings, labels = data(step)
        local = embeddings[start : start + sizes[rank()]].requires_grad_()
        head.set_progress(step, step + 1, NUM_STEPS)
        loss = head(local, labels[start : start + sizes[rank()]])
        loss.backward()
        for parameter in head.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
        optimizer.step()
        optimizer.zero_grad()
        result["loss"].append(loss.detach())
        result["sampled"].append(head.sampled)
        result["grad_embeddings"].append(local.grad / world_size())
    result["by_class"] = {name: p.detach() for name, p in head.class_parameters().items()}
    result["buffers"] = {name: b.clone() for name, b in head.named_buffers()}
    return result


# ---- the same by the formulas


def expected(run: Run, sampled: list[Tensor]) -> dict:
    """One process, float64, autograd; `sampled`: the classes of each step, ascending."""
    weight = initial_centres(3, 0, NUM_CLASSES, EMBEDDING_SIZE).double()
    tables = {name: torch.zeros_like(weight) for name in run.regularizers if not name.startswith("ndr")}
    memories = {name: NoiseMemory() for name in run.regularizers if name.startswith("ndr")}
    result = {"loss": [], "grad_embeddings": []}
    for step in range(NUM_STEPS):
        embeddings, labels = data(step)
        embeddings.requires_grad_()
        leaves = [weight.requires_grad_(), *(t.requires_grad_() for n, t in tables.items() if n == "disc")]
        unit, part = F.normalize(embeddings), weight[sampled[step]]
        cos = unit @ F.normalize(part).T
        own = torch.searchsorted(sampled[step], labels)
        if run.loss == "softmax":
            loss = F.cross_entropy(embeddings @ part.T, own)
        else:
            loss = F.cross_entropy(SCALE * (cos - 0.4 * F.one_hot(own, len(part)).double()), own)
        for name, hyper in run.regularizers.items():
            if name == "disc":
                b = tables["disc"][labels]
                factor = torch.where(b.norm(dim=1) > 0.2, 0.2 / b.norm(dim=1).clamp_min(1e-30), 1)
                short = b * factor[:, None]
                loss = loss + 0.4 * (unit - F.normalize(weight[labels]) - short).norm(dim=1).mean()
            elif name == "center":
                centre = tables["center"]
                loss = loss + 0.005 * (embeddings - centre[labels]).square().sum(1).mean()
                tables["center"] = moved_centres(centre, embeddings.detach(), labels)
            else:
                ramp = (step + 1) / NUM_STEPS if name == "ndr" else step / 6
                loss = loss + 2.0 * ramp * memories[name].term(embeddings, cos, hyper.get("over"), step)
        gradients = torch.autograd.grad(loss, [embeddings, *leaves])
        result["loss"].append(loss.detach())
        result["grad_embeddings"].append(gradients[0])
        weight = (weight - LR * gradients[1]).detach()
        if "disc" in tables:
            tables["disc"] = (tables["disc"] - LR * gradients[2]).detach()
    numbers = {name: i for i, name in enumerate(run.regularizers)}
    named = {f"regularizers.{numbers[name]}.class_rows": table.detach() for name, table in tables.items()}
    result["by_class"] = {"weight": weight.detach(), **named}
    result["memories"] = {
        numbers[name]: torch.stack([e for e, _ in m.entries]) for name, m in memories.items()
    }
    return result


def moved_centres(centres: Tensor, raw: Tensor, labels: Tensor) -> Tensor:
    moved = centres.clone()
    for j in labels.unique():
        mine = raw[labels == j]
        moved[j] -= 0.7 * (centres[j] - mine).sum(0) / (1 + len(mine))
    return moved


class NoiseMemory:
    """NDR's memory as a Python list of (direction, step of arrival), oldest first."""

    def __init__(self):
        self.entries: list[tuple[Tensor, int]] = []
        self.mean = self.std = 10.0

    def term(self, embeddings: Tensor, cos: Tensor, over: str | None, step: int) -> Tensor:
        norms = embeddings.detach().norm(dim=1)
        self.mean, self.std = (self.mean + norms.mean()) / 2, (self.std + norms.std()) / 2
        k = (0.333 * (norms - self.mean) / (self.std + 1e-3)).clamp(-1, 1)
        noise = (cos.detach().amax(1) < 0.9) & (k > 0)
        unit = F.normalize(embeddings)
        self.entries = [(e, born) for e, born in self.entries if step - born < 3]
        self.entries = (self.entries + [(e, step) for e in unit.detach()[noise]])[-7:]
        kept_away = unit if over == "all" else unit[~noise]
        pairs = [(e @ q).abs() * q.abs().sum() for e in kept_away for q, _ in self.entries]
        assert pairs, "the data are meant to have both kinds"
        return torch.stack(pairs).mean()
