"""Margin losses on the cosine between an embedding and its class centre.

- Softmax: plain cross-entropy on inner products.
- NormFace (Wang et al., ACM MM 2017, https://arxiv.org/abs/1704.06369).
- SphereFace (Liu et al., CVPR 2017, https://arxiv.org/abs/1704.08063).
- CosFace (Wang et al., CVPR 2018, https://arxiv.org/abs/1801.09414), the same as AM-Softmax
  (Wang et al., SPL 2018, https://arxiv.org/abs/1801.05599).
- ArcFace (Deng et al., CVPR 2019, https://arxiv.org/abs/1801.07698), and its combined margin.
"""

import math

import torch
from torch import Tensor

from losses.base import COS_LIMIT, KernelInputs, MarginLoss, angle
from utils.errors import require

GRADIENTS = ("exact", "straight_through")
FILTERINGS = ("remove", "zero")


def straight_through(value: Tensor, carrier: Tensor) -> Tensor:
    """The value of the first, the gradient of the second."""
    return carrier + (value - carrier).detach()


def falling_cos(phi: Tensor) -> Tensor:
    """SphereFace's ψ: cos φ up to φ = π, then continued downwards by −2 − cos φ and so on."""
    half_turns = (phi.detach() / math.pi).floor()
    return (1 - 2 * (half_turns % 2)) * phi.cos() - 2 * half_turns


class Softmax(MarginLoss):
    """Cross-entropy on inner products: neither embeddings nor centres are normalised."""

    normalize = False

    def __init__(self, focal: float = 0.0):
        super().__init__(s=1.0, focal=focal)


class NormFace(MarginLoss):
    """Cross-entropy on scaled cosines: s·cos θ for every class, no margin."""


class SphereFace(MarginLoss):
    """A-Softmax: n·(λ·cos θ + ψ(m·θ))/(1 + λ) for the own class, n·cos θ_j for the others, n the norm.

    Only the centres are normalised; the norm carries gradient. λ falls with the steps, so that the margin
    sets in slowly: λ = max(lambda_min, lambda_start/(1 + lambda_rate·step)). It is saved with the loss.

    Args:
        m: factor of the angle, >= 1.
        lambda_start, lambda_rate, lambda_min: of λ, each >= 0.
    """

    moves_others = True
    kernel = "by_norm"

    def __init__(
        self,
        m: float = 4.0,
        lambda_start: float = 1000.0,
        lambda_rate: float = 0.1,
        lambda_min: float = 5.0,
        focal: float = 0.0,
    ):
        super().__init__(s=1.0, focal=focal)
        require(1 <= m < math.inf, "m", m, ">= 1 (a factor of the angle)")
        require(0 <= lambda_start < math.inf, "lambda_start", lambda_start, ">= 0")
        require(0 <= lambda_rate < math.inf, "lambda_rate", lambda_rate, ">= 0")
        require(0 <= lambda_min < math.inf, "lambda_min", lambda_min, ">= 0")
        self.m = m
        self.lambda_start, self.lambda_rate, self.lambda_min = lambda_start, lambda_rate, lambda_min
        self.register_buffer("cos_weight", torch.tensor(0.0))  # λ
        self.set_progress(0, 0, 1)

    def set_progress(self, step: int, epoch: float, num_epoch: float) -> None:
        annealed = self.lambda_start / (1 + self.lambda_rate * step)
        self.cos_weight.fill_(max(self.lambda_min, annealed))

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        weighted = self.cos_weight * own_cos + falling_cos(self.m * angle(own_cos))
        return norms * weighted / (1 + self.cos_weight)

    def other_logits(self, cos: Tensor, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        return norms * cos

    def kernel_inputs(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> KernelInputs:
        return KernelInputs(norms)


class CosFace(MarginLoss):
    """s·(cos θ − m) for the own class: a margin in cosine.

    Args:
        m: margin, in cosine, >= 0.
    """

    def __init__(self, s: float = 64.0, m: float = 0.4, focal: float = 0.0):
        super().__init__(s, focal)
        require(0 <= m < math.inf, "m", m, ">= 0 (a cosine)")
        self.m = m

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        return self.scale * (own_cos - self.m)


class AMSoftmax(CosFace):
    """CosFace under the name, and with the defaults, of AM-Softmax."""

    def __init__(self, s: float = 30.0, m: float = 0.35, focal: float = 0.0):
        super().__init__(s, m, focal)


class ArcFace(MarginLoss):
    """s·cos(θ + m) for the own class: a margin in angle.

    Where θ + m > π the cosine would rise again; there the logit is s·(cos θ − m·sin m), which keeps falling
    (up to m = 2.33, where that rule would jump upwards).

    Args:
        m: margin in radians, in [0, π/2].
        easy_margin: no margin at all where θ > π/2, instead of the rule above: a step upwards at θ = π/2.
        gradient: "exact", the derivative s·sin(θ + m)/sin θ; or "straight_through", a constant s, which is
            what insightface's in-place margin amounts to and what its published models were trained with.
    """

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.5,
        easy_margin: bool = False,
        gradient: str = "exact",
        focal: float = 0.0,
    ):
        super().__init__(s, focal)
        require(0 <= m <= math.pi / 2, "m", m, "in [0, π/2] radians")
        require(gradient in GRADIENTS, "gradient", gradient, f"one of {GRADIENTS}")
        self.m, self.easy_margin, self.gradient = m, easy_margin, gradient

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        cos = own_cos.clamp(-COS_LIMIT, COS_LIMIT)
        sin = (1 - cos * cos).sqrt()
        with_margin = cos * math.cos(self.m) - sin * math.sin(self.m)  # cos(θ + m)
        if self.easy_margin:
            margined = torch.where(own_cos > 0, with_margin, own_cos)
        else:
            falling = own_cos - self.m * math.sin(self.m)
            margined = torch.where(own_cos > math.cos(math.pi - self.m), with_margin, falling)
        if self.gradient == "straight_through":
            margined = straight_through(margined, own_cos)
        return self.scale * margined


class CombinedMargin(MarginLoss):
    """s·(cos(m1·θ + m2) − m3) for the own class: SphereFace's, ArcFace's and CosFace's margins at once.

    Past m1·θ + m2 = π the cosine is continued downwards: with m1 = 1 by ArcFace's cos θ − m2·sin m2, else by
    −2 − cos(m1·θ + m2) and so on, SphereFace's ψ.

    Args:
        margin_list: (m1, m2, m3): factor >= 1, radians in [0, π/2], cosine >= 0; insightface's config field.
        gradient: as in ArcFace.
        interclass_filtering_threshold: other classes whose cosine exceeds it leave the softmax, as probable
            label noise; 0: none does.
        interclass_filtering: "remove" them, or "zero" their logit as insightface does, which keeps exp(0).
    """

    kernel = "filtered"

    def __init__(
        self,
        s: float = 64.0,
        margin_list: tuple[float, float, float] = (1.0, 0.5, 0.0),
        gradient: str = "exact",
        interclass_filtering_threshold: float = 0.0,
        interclass_filtering: str = "remove",
        focal: float = 0.0,
    ):
        super().__init__(s, focal)
        self.m1, self.m2, self.m3 = margin_list
        require(1 <= self.m1 < math.inf, "margin_list[0]", self.m1, ">= 1 (a factor of the angle)")
        require(0 <= self.m2 <= math.pi / 2, "margin_list[1]", self.m2, "in [0, π/2] radians")
        require(0 <= self.m3 < math.inf, "margin_list[2]", self.m3, ">= 0 (a cosine)")
        require(gradient in GRADIENTS, "gradient", gradient, f"one of {GRADIENTS}")
        threshold, filtering = interclass_filtering_threshold, interclass_filtering
        require(0 <= threshold < 1, "interclass_filtering_threshold", threshold, "in [0, 1) (0: off)")
        require(filtering in FILTERINGS, "interclass_filtering", filtering, f"one of {FILTERINGS}")
        self.gradient = gradient
        self.threshold = threshold
        self.filtered_logit = -math.inf if filtering == "remove" else 0.0
        self.moves_others = threshold > 0

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        if self.m1 == 1 and self.m2 == 0:
            return self.scale * (own_cos - self.m3)
        phi = self.m1 * angle(own_cos) + self.m2
        if self.m1 == 1:
            margined = torch.where(phi > math.pi, own_cos - self.m2 * math.sin(self.m2), phi.cos())
        else:
            margined = falling_cos(phi)
        if self.gradient == "straight_through":
            margined = straight_through(margined, own_cos)
        return self.scale * (margined - self.m3)

    def other_logits(self, cos: Tensor, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        logits = self.scale * cos
        if self.threshold == 0:
            return logits
        return logits.masked_fill(cos > self.threshold, self.filtered_logit)

    def kernel_inputs(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> KernelInputs:
        return KernelInputs(constants=(self.scale, self.threshold, self.filtered_logit))
