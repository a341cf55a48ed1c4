"""The losses as their papers write them: the whole logit matrix, one process, float64, autograd.

Each reference takes raw embeddings (B, D), raw centres (C, D), labels (B,) and the settings of `build_loss`,
and returns each sample's loss (B,). What the loss draws at random or learns it takes as further keywords. A
loss that joins the registry joins the tests with its formula in REFERENCES and its settings in VARIANTS.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import MarginLoss, Regularizer, build_loss


@dataclass(frozen=True)
class Variant:
    """One setting of one loss.

    Attributes:
        derivative: its gradient is the true derivative, so gradcheck applies.
        steps_down: how often its own logit falls, in a step, as the cosine rises; by the loss's definition.
        falls: its own logit falls as the cosine rises, over a range of it; by the loss's definition.
        compares: the own class is compared with the others, so that without any the loss is 0.
    """

    name: str
    hyper: dict = field(default_factory=dict)
    derivative: bool = True
    steps_down: int = 0
    falls: bool = False
    compares: bool = True

    def make(self) -> tuple[MarginLoss, list[Regularizer]]:
        return build_loss(self.name, **self.hyper), []

    def expected(self, embeddings: Tensor, centres: Tensor, labels: Tensor, **given: Tensor) -> Tensor:
        """`given`: by name, what the loss draws `(B,)` and its parameters."""
        return REFERENCES[self.name](embeddings, centres, labels, **self.hyper, **given).mean()

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{key}={value}" for key, value in self.hyper.items())])


def cosines(embeddings: Tensor, centres: Tensor) -> Tensor:
    return F.normalize(embeddings) @ F.normalize(centres).T


def own(matrix: Tensor, labels: Tensor) -> Tensor:
    return matrix.gather(1, labels[:, None]).squeeze(1)


def replace_own(matrix: Tensor, labels: Tensor, values: Tensor) -> Tensor:
    is_own = F.one_hot(labels, matrix.shape[1]).bool()
    return torch.where(is_own, values[:, None], matrix)


def cross_entropy(logits: Tensor, labels: Tensor, focal: float = 0.0) -> Tensor:
    """−(1 − p)^focal · log p per sample, with 1 − p summed from the other classes, which loses no digits."""
    log_p = F.log_softmax(logits, 1)
    if focal == 0:
        return -own(log_p, labels)
    others = replace_own(log_p, labels, torch.full(labels.shape, -math.inf, dtype=log_p.dtype)).exp().sum(1)
    return -(others**focal) * own(log_p, labels)


def with_gradient_of(value: Tensor, carrier: Tensor) -> Tensor:
    """insightface's straight-through margin: the value, with d value / d carrier = 1 by decree."""
    return value.detach() + carrier - carrier.detach()


def softmax(embeddings, centres, labels, focal=0.0):
    return cross_entropy(embeddings @ centres.T, labels, focal)


def normface(embeddings, centres, labels, s=64.0, focal=0.0):
    return cross_entropy(s * cosines(embeddings, centres), labels, focal)


def sphereface(
    embeddings, centres, labels, m=4.0, lambda_start=1000.0, lambda_rate=0.1, lambda_min=5.0, focal=0.0
):
    """At step 0."""
    cos, norms = cosines(embeddings, centres), embeddings.norm(dim=1)
    own_cos = own(cos, labels)
    weight = max(lambda_min, lambda_start)
    own_logit = norms * (weight * own_cos + psi(m * own_cos.acos())) / (1 + weight)
    return cross_entropy(replace_own(norms[:, None] * cos, labels, own_logit), labels, focal)


def psi(phi: Tensor) -> Tensor:
    """SphereFace's, piece by piece: (−1)^k cos φ − 2k for φ in [kπ, (k+1)π]."""
    value = phi.cos()
    for k in range(1, 12):
        value = torch.where(phi >= k * math.pi, (-1) ** k * phi.cos() - 2 * k, value)
    return value


def cosface(embeddings, centres, labels, s=64.0, m=0.4, focal=0.0):
    cos = cosines(embeddings, centres)
    return cross_entropy(s * (cos - m * F.one_hot(labels, cos.shape[1])), labels, focal)


def amsoftmax(embeddings, centres, labels, s=30.0, m=0.35, focal=0.0):
    return cosface(embeddings, centres, labels, s, m, focal)


def arcface(embeddings, centres, labels, s=64.0, m=0.5, easy_margin=False, gradient="exact", focal=0.0):
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)
    theta = own_cos.acos()
    if easy_margin:
        margined = torch.where(theta < math.pi / 2, (theta + m).cos(), theta.cos())
    else:
        margined = torch.where(theta + m > math.pi, theta.cos() - m * math.sin(m), (theta + m).cos())
    if gradient == "straight_through":
        margined = with_gradient_of(margined, own_cos)
    return cross_entropy(s * replace_own(cos, labels, margined), labels, focal)


def combined(
    embeddings,
    centres,
    labels,
    s=64.0,
    margin_list=(1.0, 0.5, 0.0),
    gradient="exact",
    interclass_filtering_threshold=0.0,
    interclass_filtering="remove",
    focal=0.0,
):
    m1, m2, m3 = margin_list
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)
    phi = m1 * own_cos.acos() + m2
    if m1 == 1:
        margined = torch.where(phi > math.pi, own_cos - m2 * math.sin(m2), phi.cos())
    else:
        margined = psi(phi)
    if gradient == "straight_through":
        margined = with_gradient_of(margined, own_cos)
    others = s * cos
    if interclass_filtering_threshold > 0:
        filtered = {"remove": -math.inf, "zero": 0.0}[interclass_filtering]
        others = torch.where(cos > interclass_filtering_threshold, filtered, others)
    return cross_entropy(replace_own(others, labels, s * (margined - m3)), labels, focal)


def mv_softmax(embeddings, centres, labels, s=32.0, kind="am", m=0.35, t=1.12, focal=0.0):
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)
    if kind == "am":
        margined, easy_enough = own_cos - m, own_cos > m
    else:
        margined, easy_enough = (own_cos.acos() + m).cos(), own_cos > 0
    others = torch.where(cos > margined[:, None], t * cos + t - 1, cos)
    logits = s * replace_own(others, labels, torch.where(easy_enough, margined, own_cos))
    return cross_entropy(logits, labels, focal)


def curricularface(embeddings, centres, labels, s=64.0, m=0.5, t0=0.0, t_alpha=0.01, focal=0.0):
    """At the first step. t is the batch's, without gradient."""
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)
    t = (1 - t_alpha) * t0 + t_alpha * own_cos.mean().detach()
    theta = own_cos.acos()
    margined = torch.where(theta + m > math.pi, own_cos - m * math.sin(m), (theta + m).cos())
    others = torch.where(cos > (theta + m).cos()[:, None], cos * (t + cos), cos)
    return cross_entropy(s * replace_own(others, labels, margined), labels, focal)


def npcface(embeddings, centres, labels, s=64.0, m0=0.4, m1=0.2, t=1.1, a=0.25, m_hard=0.4, focal=0.0):
    """The mean of the hard negatives is taken without gradient."""
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)
    theta = own_cos.acos()
    hard = (cos > (theta + m_hard).cos()[:, None]) & (F.one_hot(labels, cos.shape[1]) == 0)
    mean_hard = ((cos * hard).sum(1) / hard.sum(1).clamp_min(1)).detach()
    margined = torch.where(own_cos > 0, (theta + m0 + m1 * mean_hard).cos(), own_cos)
    return cross_entropy(
        s * replace_own(torch.where(hard, t * cos + a, cos), labels, margined), labels, focal
    )


def circle(embeddings, centres, labels, m=0.25, gamma=256.0, focal=0.0):
    """The weights are taken without gradient, as published."""
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)
    own_weight = (1 + m - own_cos).clamp_min(0).detach()
    other_weights = (cos + m).clamp_min(0).detach()
    logits = replace_own(other_weights * (cos - m), labels, -own_weight * (1 - m - own_cos))
    return cross_entropy(gamma * logits, labels, focal)


def adaface(
    embeddings,
    centres,
    labels,
    s=64.0,
    m=0.4,
    h=0.333,
    t_alpha=0.01,
    eps=1e-3,
    initial_mean=20.0,
    initial_std=100.0,
    keep_gradient=False,
    gradient="exact",
    focal=0.0,
):
    """At the first step. The quality k is taken without gradient, as published."""
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)
    norms = embeddings.norm(dim=1).detach().clamp(1e-3, 100)
    mean = t_alpha * norms.mean() + (1 - t_alpha) * initial_mean
    std = initial_std
    if len(norms) > 1:
        std = t_alpha * norms.std() + (1 - t_alpha) * initial_std
    k = ((norms - mean) / (std + eps) * h).clamp(-1, 1)
    phi = own_cos.acos() - m * k
    if gradient == "straight_through":  # CVLface: the margin in place, outside autograd, and no clipping
        own_logit = with_gradient_of(phi.cos() - (m + m * k), own_cos)
        return cross_entropy(s * replace_own(cos, labels, own_logit), labels, focal)
    margined = phi.clamp(eps, math.pi - eps).cos()
    if keep_gradient:
        inside = (phi >= eps) & (phi <= math.pi - eps)
        margined = torch.where(inside, margined, with_gradient_of(margined, own_cos))
    return cross_entropy(s * replace_own(cos, labels, margined - (m + m * k)), labels, focal)


def magface(
    embeddings,
    centres,
    labels,
    s=64.0,
    l_a=10.0,
    u_a=110.0,
    l_margin=0.45,
    u_margin=0.8,
    lambda_g=20.0,
    focal=0.0,
):
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)
    a = embeddings.norm(dim=1).clamp(l_a, u_a)
    phi = own_cos.acos() + (u_margin - l_margin) / (u_a - l_a) * (a - l_a) + l_margin
    margined = torch.where(phi > math.pi, own_cos, phi.cos())
    norm_term = lambda_g * (a / u_a**2 + 1 / a)
    return cross_entropy(s * replace_own(cos, labels, margined), labels, focal) + norm_term


def elasticface(
    embeddings, centres, labels, s=64.0, kind="arc", m=0.5, std=0.05, plus=False, focal=0.0, *, margin
):
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)
    if plus:  # the i-th lowest cosine has the i-th largest margin
        rank = own_cos.detach().argsort(stable=True).argsort(stable=True)
        margin = margin.sort(descending=True).values[rank]
    if kind == "cos":
        margined = own_cos - margin
    else:
        theta = own_cos.acos()
        falling = own_cos - margin * margin.sin()
        margined = torch.where(theta + margin > math.pi, falling, (theta + margin).cos())
    return cross_entropy(s * replace_own(cos, labels, margined), labels, focal)


def uniface(embeddings, centres, labels, s=64.0, m=0.4, others_weight=1.0, initial_bias=None, *, bias):
    cos = cosines(embeddings, centres)
    positive = (1 + (-(s * (own(cos, labels) - m) - bias)).exp()).log()
    return positive + others_weight * sum_of_others((1 + (s * cos - bias).exp()).log(), labels)


def sphereface2(
    embeddings,
    centres,
    labels,
    s=40.0,
    kind="cos",
    m=0.4,
    t=3.0,
    alpha=0.7,
    weight=50.0,
    gradient="exact",
    initial_bias=None,
    *,
    bias,
):
    cos = cosines(embeddings, centres)
    own_cos = own(cos, labels)

    def g(c):
        return 2 * ((c + 1) / 2) ** t - 1

    if kind == "cos":
        own_similarity, others = g(own_cos) - m, g(cos) + m
    else:
        phi = own_cos.acos() + m if kind == "arc" else own_cos.acos() * m
        own_similarity, others = g(phi.clamp_max(math.pi).cos()), g(cos)
    if gradient == "straight_through":
        own_similarity, others = with_gradient_of(own_similarity, own_cos), with_gradient_of(others, cos)
    positive = (1 + (-(s * own_similarity + bias)).exp()).log()
    negative = sum_of_others((1 + (s * others + bias).exp()).log(), labels)
    return weight / s * (alpha * positive + (1 - alpha) * negative)


def sum_of_others(matrix: Tensor, labels: Tensor) -> Tensor:
    return replace_own(matrix, labels, torch.zeros_like(matrix[:, 0])).sum(1)


REFERENCES: dict[str, Callable[..., Tensor]] = {
    "softmax": softmax,
    "normface": normface,
    "sphereface": sphereface,
    "cosface": cosface,
    "amsoftmax": amsoftmax,
    "arcface": arcface,
    "combined": combined,
    "mv_softmax": mv_softmax,
    "curricularface": curricularface,
    "npcface": npcface,
    "circle": circle,
    "adaface": adaface,
    "magface": magface,
    "elasticface": elasticface,
    "uniface": uniface,
    "sphereface2": sphereface2,
}

VARIANTS = [
    Variant("softmax"),
    Variant("softmax", {"focal": 2.0}),
    Variant("normface"),
    Variant("sphereface"),
    Variant("sphereface", {"m": 3.0, "lambda_start": 0.5, "lambda_min": 0.0, "focal": 1.0}),
    Variant("cosface"),
    Variant("cosface", {"s": 8.0, "m": 0.2, "focal": 0.5}),
    Variant("amsoftmax"),
    Variant("arcface"),
    Variant("arcface", {"s": 16.0, "m": 1.2}),  # θ + m > π is common here
    Variant("arcface", {"easy_margin": True}, steps_down=1),
    Variant("arcface", {"gradient": "straight_through"}, derivative=False),
    Variant("combined"),
    Variant("combined", {"gradient": "straight_through"}, derivative=False),
    Variant("combined", {"margin_list": (1.0, 0.0, 0.4)}),
    Variant("combined", {"s": 16.0, "margin_list": (1.35, 0.9, 0.2), "focal": 1.0}),
    Variant("combined", {"s": 16.0, "margin_list": (4.0, 0.0, 0.0)}),
    Variant("combined", {"interclass_filtering_threshold": 0.3}),
    Variant("combined", {"interclass_filtering_threshold": 0.3, "interclass_filtering": "zero"}),
    Variant("mv_softmax", steps_down=1),
    Variant("mv_softmax", {"kind": "arc", "m": 0.5, "t": 1.3, "focal": 1.0}, steps_down=1),
    Variant("curricularface"),
    Variant("curricularface", {"s": 16.0, "t0": 0.3, "t_alpha": 1.0, "focal": 2.0}),
    Variant("npcface", derivative=False, steps_down=1),
    Variant("npcface", {"s": 16.0, "m_hard": 1.0, "m1": 0.8, "focal": 0.5}, derivative=False, steps_down=1),
    Variant("circle", derivative=False),
    Variant("circle", {"gamma": 32.0, "m": 0.4, "focal": 1.0}, derivative=False),
    Variant("adaface", derivative=False),
    Variant("adaface", {"t_alpha": 1.0, "h": 2.0}, derivative=False),  # k from -1 to 1, angles clipped
    Variant("adaface", {"t_alpha": 1.0, "gradient": "straight_through"}, derivative=False, falls=True),
    Variant("adaface", {"s": 16.0, "t_alpha": 1.0, "keep_gradient": True, "focal": 1.0}, derivative=False),
    Variant("magface", steps_down=1),
    Variant("magface", {"s": 16.0, "l_a": 2.0, "u_a": 30.0, "l_margin": 0.1, "focal": 1.0}, steps_down=1),
    Variant("elasticface"),
    Variant("elasticface", {"kind": "cos", "m": 0.35, "std": 0.2, "plus": True, "focal": 1.0}),
    Variant("elasticface", {"s": 16.0, "m": 1.2, "std": 0.3, "plus": True}),
    Variant("uniface", compares=False),
    Variant("uniface", {"s": 16.0, "others_weight": 0.7, "initial_bias": 1.0}, compares=False),
    Variant("sphereface2", compares=False),
    Variant("sphereface2", {"kind": "arc", "m": 0.5, "t": 2.0, "alpha": 0.5}, compares=False),
    Variant("sphereface2", {"kind": "mult", "m": 1.7, "weight": 5.0, "initial_bias": -3.0}, compares=False),
    Variant("sphereface2", {"gradient": "straight_through"}, derivative=False, compares=False),
]
