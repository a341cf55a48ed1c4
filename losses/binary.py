"""Losses that ask of each class on its own whether a sample belongs to it, against one learnt threshold.

- SphereFace2 (Wen et al., SphereFace2: Binary Classification is All You Need for Deep Face Recognition,
  ICLR 2022, https://arxiv.org/abs/2108.01513).
- UniFace (Zhou et al., UniFace: Unified Cross-Entropy Loss for Deep Face Recognition, ICCV 2023,
  https://openaccess.thecvf.com/content/ICCV2023/html/Zhou_UniFace_Unified_Cross-Entropy_Loss_for_Deep_Face_Recognition_ICCV_2023_paper.html).

The softmax compares the own class with the others; a threshold at test time compares pairs of all people with
one number. These losses train that number, as a bias that all classes share.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.base import KernelInputs, MarginLoss, angle
from losses.margin import GRADIENTS, straight_through
from utils.errors import require

MARGINS = {  # by kind, of SphereFace2: lowest, what it stays below, in words
    "cos": (0, math.inf, ">= 0 (a cosine)"),
    "arc": (0, math.nextafter(math.pi, 4), "in [0, π] radians"),
    "mult": (1, math.inf, ">= 1 (a factor of the angle)"),
}


class BinaryLoss(MarginLoss):
    """own_weight·softplus(−z_y) + others_weight·Σ_j softplus(z_j), j over the other classes.

    The engine sums exponentials. So `other_logits` returns log softplus(z_j), whose log-sum-exp over the
    classes is the logarithm of that sum.

    Args:
        own_weight, others_weight: > 0.
        initial_bias: what the bias starts from; None: see `bias_for`.
    """

    moves_others = True

    def __init__(self, s: float, own_weight: float, others_weight: float, initial_bias: float | None):
        super().__init__(s)
        finite = initial_bias is None or math.isfinite(initial_bias)
        require(finite, "initial_bias", initial_bias, "a finite number, or None")
        self.own_weight, self.others_weight, self.initial_bias = own_weight, others_weight, initial_bias
        self.bias = nn.Parameter(torch.tensor(float(initial_bias or 0.0)))

    def prepare(self, num_classes: int) -> None:
        if self.initial_bias is None:
            self.bias.data.fill_(self.bias_for(num_classes))

    def bias_for(self, num_classes: int) -> float:
        """What the bias starts from where a step sees that many classes."""
        raise NotImplementedError

    def binary_logits(self, cos: Tensor) -> Tensor:
        """z_j of other classes, any shape; above 0: the sample is taken for one of theirs."""
        raise NotImplementedError

    def other_logits(self, cos: Tensor, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        return log_softplus(self.binary_logits(cos))

    def per_sample(self, own_logit: Tensor, lse_others: Tensor, norms: Tensor) -> Tensor:
        return self.own_weight * softplus(-own_logit) + self.others_weight * lse_others.exp()

    def advantage(self, own_logit: Tensor, other_logit: Tensor) -> Tensor:
        """Both questions have to be answered rightly: the own one with yes, the other one with no."""
        return torch.minimum(own_logit, -inverse_log_softplus(other_logit))


class UniFace(BinaryLoss):
    """softplus(−(s·(cos θ − m) − b)) + others_weight·Σ_j softplus(s·cos_j − b), b learnt.

    Departure: logits are not clamped to ±s, where the authors' code takes the gradient away.

    Args:
        m: margin, in cosine, >= 0.
        others_weight: λ in the paper, > 0.
        initial_bias: of b; None: log(10·C), C the number of classes that a step sees.
    """

    kernel = "binary"

    def __init__(
        self, s: float = 64.0, m: float = 0.4, others_weight: float = 1.0, initial_bias: float | None = None
    ):
        require(0 <= m < math.inf, "m", m, ">= 0 (a cosine)")
        require(0 < others_weight < math.inf, "others_weight", others_weight, "> 0")
        super().__init__(s, 1.0, others_weight, initial_bias)
        self.m = m

    def bias_for(self, num_classes: int) -> float:
        return math.log(10 * num_classes)

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        return self.scale * (own_cos - self.m) - self.bias

    def binary_logits(self, cos: Tensor) -> Tensor:
        return self.scale * cos - self.bias

    def kernel_inputs(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> KernelInputs:
        return KernelInputs(scalar=self.bias, constants=(self.scale, 0.0, 0.0))


class SphereFace2(BinaryLoss):
    """weight/s·[α·softplus(−z_y) + (1 − α)·Σ_j softplus(z_j)] with g(cos) = 2·((cos + 1)/2)^t − 1.

    b is learnt. Where the margin is, by kind (C, A and M in the paper):

        "cos"    z_y = s·(g(cos θ) − m) + b           z_j = s·(g(cos_j) + m) + b
        "arc"    z_y = s·g(cos(min(π, θ + m))) + b    z_j = s·g(cos_j) + b
        "mult"   z_y = s·g(cos(min(π, m·θ))) + b      z_j = s·g(cos_j) + b

    Args:
        s: r in the paper, > 0.
        kind: which margin.
        m: margin: a cosine >= 0 for "cos", radians in [0, π] for "arc", a factor >= 1 for "mult".
        t: exponent of the similarity, >= 1; it spreads the cosines of different people.
        alpha: λ in the paper, weight of the own class, in (0, 1).
        weight: of the whole loss, > 0.
        gradient: "exact", the derivative; or "straight_through", as if z were s·cos + b: the authors' code.
        initial_bias: of b; None: where the loss has no gradient over b while all cosines are 0.
    """

    def __init__(
        self,
        s: float = 40.0,
        kind: str = "cos",
        m: float = 0.4,
        t: float = 3.0,
        alpha: float = 0.7,
        weight: float = 50.0,
        gradient: str = "exact",
        initial_bias: float | None = None,
    ):
        require(0 < s < math.inf, "s", s, "> 0")
        require(kind in MARGINS, "kind", kind, f"one of {tuple(MARGINS)}")
        lowest, limit, allowed = MARGINS[kind]
        require(lowest <= m < limit, "m", m, allowed)
        require(1 <= t < math.inf, "t", t, ">= 1")
        require(0 < alpha < 1, "alpha", alpha, "in (0, 1)")
        require(0 < weight < math.inf, "weight", weight, "> 0")
        require(gradient in GRADIENTS, "gradient", gradient, f"one of {GRADIENTS}")
        super().__init__(s, weight / s * alpha, weight / s * (1 - alpha), initial_bias)
        self.kind, self.m, self.t, self.alpha, self.gradient = kind, m, t, alpha, gradient

    def bias_for(self, num_classes: int) -> float:
        at_zero = torch.zeros((), dtype=torch.float64)
        own = self.scale * self.own_similarity(at_zero).item()
        other = self.scale * self.other_similarity(at_zero).item()
        # σ(−own − b)·α = σ(other + b)·(1 − α)·(C − 1), solved for b.
        ratio = self.alpha / ((1 - self.alpha) * max(num_classes - 1, 1))
        root = math.sqrt((1 - ratio) ** 2 + 4 * ratio * math.exp(own - other))
        if ratio > 1:  # both forms are the same number; each loses its digits where the other keeps them
            return math.log(ratio - 1 + root) - math.log(2) - own
        return math.log(2 * ratio) - other - math.log(max(1 - ratio + root, 1e-300))

    def own_similarity(self, cos: Tensor) -> Tensor:
        """z_y/s without the bias, from the own cosine."""
        if self.kind == "cos":
            return self.adjusted_similarity(cos) - self.m
        theta = angle(cos)
        phi = theta + self.m if self.kind == "arc" else theta * self.m
        return self.adjusted_similarity(phi.clamp_max(math.pi).cos())

    def other_similarity(self, cos: Tensor) -> Tensor:
        """z_j/s without the bias, from the cosine with another class."""
        return self.adjusted_similarity(cos) + (self.m if self.kind == "cos" else 0)

    def adjusted_similarity(self, cos: Tensor) -> Tensor:
        """g, from [-1, 1] onto itself; rounding may make a cosine less than -1."""
        return 2 * ((cos.clamp_min(-1) + 1) / 2).pow(self.t) - 1

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        return self.scale * self.with_gradient(self.own_similarity(own_cos), own_cos) + self.bias

    def binary_logits(self, cos: Tensor) -> Tensor:
        return self.scale * self.with_gradient(self.other_similarity(cos), cos) + self.bias

    def with_gradient(self, similarity: Tensor, cos: Tensor) -> Tensor:
        """The similarity, with the derivative by the cosine that `gradient` asks for."""
        return straight_through(similarity, cos) if self.gradient == "straight_through" else similarity


FAR_LEFT = -15.0  # here softplus(z) = exp(z)·(1 − exp(z)/2) to the last digit of float32


def softplus(z: Tensor) -> Tensor:
    """log(1 + exp(z)); with torch's own threshold, 20, it would cost float64 its last digits."""
    return F.softplus(z, threshold=40)


def log_softplus(z: Tensor) -> Tensor:
    """log(log(1 + exp(z))), finite with its derivative where softplus(z) is 0 in float32."""
    left = z - z.clamp_max(FAR_LEFT).exp() / 2
    return torch.where(z < FAR_LEFT, left, softplus(z.clamp_min(FAR_LEFT)).log())


def inverse_log_softplus(value: Tensor) -> Tensor:
    """z from log_softplus(z)."""
    right = value.clamp(FAR_LEFT, 3.5).exp()  # softplus(z), up to z = 33
    z = torch.where(value > 3.5, value.exp(), right.expm1().log())
    return torch.where(value < FAR_LEFT, value, z)
