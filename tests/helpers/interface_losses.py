"""Losses that nobody trains with: together they use every part of the interface that later losses will need.

Each stands beside its reference, the same maths on the whole matrix (see `loss_references`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.loss_references import cosines, cross_entropy, own, replace_own
from losses.base import MarginLoss, Regularizer, angle


class HardNegatives(MarginLoss):
    """As NPCFace: reductions over each row move the own margin and the other logits."""

    moves_others = True
    has_row_statistics = True

    def row_statistics(self, cos, own_cos, norms):
        hard = cos > own_cos
        return {"hard": (cos * hard, "sum"), "count": (hard, "sum"), "top": (cos, "max")}

    def own_logit(self, own_cos, norms, statistics):
        mean = statistics["hard"] / statistics["count"].clamp_min(1)
        return self.scale * (angle(own_cos) + 0.4 + 0.2 * mean).cos()

    def other_logits(self, cos, own_cos, norms, statistics):
        moved = torch.where(cos > own_cos, 1.1 * cos + 0.25, cos)
        return self.scale * moved * (1 - 0.1 * statistics["top"].clamp_min(-1))


def hard_negatives(embeddings, centres, labels):
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)
    with torch.no_grad():
        others = replace_own(cos, labels, torch.full_like(own_cos, -2))
        hard = others > own_cos[:, None]
        mean = (others * hard).sum(1) / hard.sum(1).clamp_min(1)
        top = others.amax(1).clamp_min(-1)
    moved = torch.where(cos > own_cos[:, None], 1.1 * cos + 0.25, cos) * (1 - 0.1 * top[:, None])
    return cross_entropy(64 * replace_own(moved, labels, (own_cos.acos() + 0.4 + 0.2 * mean).cos()), labels)


class MovedByOwn(MarginLoss):
    """The others depend on own_cos and the norm, with gradient through both; as MV-Softmax and SphereFace."""

    moves_others = True

    def own_logit(self, own_cos, norms, statistics):
        return norms * (own_cos - 0.2)

    def other_logits(self, cos, own_cos, norms, statistics):
        hard = cos > own_cos - 0.2
        return norms * torch.where(hard, 1.2 * cos + 0.2, cos) + 3 * cos * own_cos


def moved_by_own(embeddings, centres, labels):
    cos, norms = cosines(embeddings, centres), embeddings.norm(dim=1)
    own_cos = own(cos, labels)[:, None]
    others = norms[:, None] * torch.where(cos > own_cos - 0.2, 1.2 * cos + 0.2, cos) + 3 * cos * own_cos
    return cross_entropy(replace_own(others, labels, norms * (own_cos[:, 0] - 0.2)), labels)


class PairSimilarity(MarginLoss):
    """As Circle, with MagFace's term: detached weights on both sides, and a per-sample loss on the norm."""

    moves_others = True

    def own_logit(self, own_cos, norms, statistics):
        return -self.scale * (1.25 - own_cos).detach() * (0.75 - own_cos)

    def other_logits(self, cos, own_cos, norms, statistics):
        return self.scale * (cos + 0.25).relu().detach() * (cos - 0.25)

    def per_sample(self, own_logit, lse_others, norms):
        return super().per_sample(own_logit, lse_others, norms) + 20 * (norms / 110**2 + 1 / norms)


def pair_similarity(embeddings, centres, labels):
    cos, norms = cosines(embeddings, centres), embeddings.norm(dim=1)
    own_cos = own(cos, labels)
    others = 64 * (cos + 0.25).relu().detach() * (cos - 0.25)
    ap = (1.25 - own_cos).detach() * (0.75 - own_cos)
    is_other = F.one_hot(labels, cos.shape[1]) == 0
    total = 1 + (others.exp() * is_other).sum(1) * (64 * ap).exp()
    return total.log() + 20 * (norms / 110**2 + 1 / norms)


class RunningNorm(MarginLoss):
    """As AdaFace: a running mean over the global batch, advanced before it is used, sets the margin."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(20.0))

    def update_state(self, own_cos, norms):
        self.mean.mul_(0.9).add_(0.1 * (norms + own_cos).mean())

    def own_logit(self, own_cos, norms, statistics):
        quality = (0.1 * (norms.detach() - self.mean)).clamp(-1, 1)
        return self.scale * (own_cos - 0.2 - 0.2 * quality)


def running_norm(embeddings, centres, labels):
    cos, norms = cosines(embeddings, centres), embeddings.norm(dim=1)
    own_cos = own(cos, labels)
    mean = 0.9 * 20 + 0.1 * (norms + own_cos).mean()
    margin = 0.2 + 0.2 * (0.1 * (norms - mean)).clamp(-1, 1).detach()
    return cross_entropy(64 * replace_own(cos, labels, own_cos - margin), labels)


class CosinesAsTheyAre(MarginLoss):
    """Hands the block over that it was given; an engine that works on it in place has to copy it."""

    moves_others = True

    def other_logits(self, cos, own_cos, norms, statistics):
        return cos


def cosines_as_they_are(embeddings, centres, labels):
    cos = cosines(embeddings, centres)
    return cross_entropy(replace_own(cos, labels, 64 * own(cos, labels)), labels)


class Learning(MarginLoss):
    """Parameters of several shapes, in the own logit, in the others' and in the loss of a sample."""

    moves_others = True

    def __init__(self):
        super().__init__(s=8.0)
        self.margin = nn.Parameter(torch.tensor(0.3))
        self.slope = nn.Parameter(torch.tensor([1.0, 0.2]))
        self.offset = nn.Parameter(torch.tensor(0.1))

    def own_logit(self, own_cos, norms, statistics):
        return self.scale * (self.slope[0] * own_cos - self.margin)

    def other_logits(self, cos, own_cos, norms, statistics):
        return self.scale * (self.slope[0] * cos + self.slope[1] * cos * cos * own_cos) + self.margin

    def per_sample(self, own_logit, lse_others, norms):
        return super().per_sample(own_logit, lse_others, norms) + self.offset.square()


def learning(embeddings, centres, labels, margin, slope, offset):
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)[:, None]
    others = 8 * (slope[0] * cos + slope[1] * cos**2 * own_cos) + margin
    own_logit = 8 * (slope[0] * own_cos[:, 0] - margin)
    return cross_entropy(replace_own(others, labels, own_logit), labels) + offset**2


class LearntBias(MarginLoss):
    """Softmax with a bias: the cosines pass through, and autograd may return what it was handed."""

    normalize = False
    moves_others = True

    def __init__(self):
        super().__init__(s=1.0)
        self.bias = nn.Parameter(torch.tensor(0.4))

    def own_logit(self, own_cos, norms, statistics):
        return own_cos

    def other_logits(self, cos, own_cos, norms, statistics):
        return cos + self.bias


def learnt_bias(embeddings, centres, labels, bias):
    products = embeddings @ centres.T
    return cross_entropy(replace_own(products + bias, labels, own(products, labels)), labels)


class Drawing(MarginLoss):
    """Random numbers in both kinds of logits."""

    moves_others = True

    def draw(self, generator, batch_size):
        return {
            "margin": 0.3 * torch.rand(batch_size, generator=generator),
            "temperature": 1 + torch.rand(batch_size, generator=generator),
        }

    def own_logit(self, own_cos, norms, statistics):
        return 16 * statistics["temperature"] * (own_cos - statistics["margin"])

    def other_logits(self, cos, own_cos, norms, statistics):
        return 16 * statistics["temperature"] * cos


def drawing(embeddings, centres, labels, margin, temperature):
    cos = cosines(embeddings, centres)
    own_logit = own(cos, labels) - margin
    return cross_entropy(16 * temperature[:, None] * replace_own(cos, labels, own_logit), labels)


class Compact(Regularizer):
    """Pulls embeddings to their own raw centre, more so where a class is near; counts its training steps."""

    name = "compact"
    needs_own_centres = True
    needs_max_cos = True

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.tensor(0.0))

    def update_state(self, batch):
        self.steps += 1

    def forward(self, batch):
        distance = (batch.embeddings - 10 * batch.own_centres).square().sum(1)
        return 2 * (distance * (1 + batch.max_cos)).mean() + 0.3 * batch.norms.mean() + 0.1 * (self.steps - 1)


def compact(embeddings: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    max_cos = cosines(embeddings, centres).amax(1).detach()
    distance = (F.normalize(embeddings) - 10 * centres[labels]).square().sum(1)
    return 2 * (distance * (1 + max_cos)) + 0.3 * embeddings.norm(dim=1)


@dataclass(frozen=True)
class InterfaceVariant:
    """As `loss_references.Variant`, for the losses of this file."""

    name: str

    def make(self) -> tuple[MarginLoss, list[Regularizer]]:
        return INTERFACE[self.name][0](), [Compact()] if self.name == "with_regularizer" else []

    def expected(self, embeddings: Tensor, centres: Tensor, labels: Tensor, **given: Tensor) -> Tensor:
        return INTERFACE[self.name][1](embeddings, centres, labels, **given).mean()

    def __str__(self) -> str:
        return self.name


INTERFACE: dict[str, tuple[Callable[[], MarginLoss], Callable[..., Tensor]]] = {
    "hard_negatives": (HardNegatives, hard_negatives),
    "moved_by_own": (MovedByOwn, moved_by_own),
    "pair_similarity": (PairSimilarity, pair_similarity),
    "running_norm": (RunningNorm, running_norm),
    "cosines_as_they_are": (CosinesAsTheyAre, cosines_as_they_are),
    "learning": (Learning, learning),
    "learnt_bias": (LearntBias, learnt_bias),
    "drawing": (Drawing, drawing),
    "with_regularizer": (HardNegatives, lambda *batch: hard_negatives(*batch) + compact(*batch)),
}
INTERFACE_VARIANTS = [InterfaceVariant(name) for name in INTERFACE]
