"""Margins that follow the feature norm, which tells the quality of an image.

- AdaFace (Kim et al., AdaFace: Quality Adaptive Margin for Face Recognition, CVPR 2022,
  https://arxiv.org/abs/2204.00964).
- MagFace (Meng et al., MagFace: A Universal Representation for Face Recognition and Quality Assessment,
  CVPR 2021, https://arxiv.org/abs/2103.06627).
"""

import math

import torch
from torch import Tensor

from losses.base import MarginLoss, angle
from losses.margin import GRADIENTS, straight_through
from losses.quality import FeatureQuality
from utils.errors import require


class AdaFace(MarginLoss):
    """s·(cos(clip(θ − m·k, ε, π − ε)) − m − m·k) for the own class, k the image's quality in [−1, 1].

    At k = −1 (low quality) this is ArcFace's margin, which makes least of samples far from their class; at
    k = 0 CosFace's; at k = 1 a larger one that makes most of them. k carries no gradient, as published.

    Departures from public code: cosines are not clamped to ±(1 − 1e-3), which stopped the gradient of
    samples within 2.6° of their centre. Where the angle is clipped, at high quality within m·k of the centre
    or at low quality so near its opposite, the published logit is flat and its gradient 0; that stays the
    default, for it is the derivative and what published models trained with.

    Args:
        m: margin in radians, in [0, π/2]; as a cosine in the second term.
        h, t_alpha, initial_mean, initial_std: see `FeatureQuality`.
        eps: ε, in (0, π/2): added to the deviation there, and in radians the bound of the angle here.
        keep_gradient: where the angle is clipped, the gradient of s·cos θ in place of 0; the value stays.
        gradient: "exact", the derivative, as in the authors' code; or "straight_through", a constant s, as
            in CVLface, whose released AdaFace models were trained so. CVLface does not clip the angle either:
            then the logit is s·(cos(θ − m·k) − m − m·k) for every θ.
    """

    def __init__(
        self,
        s: float = 64.0,
        m: float = 0.4,
        h: float = 0.333,
        t_alpha: float = 0.01,
        eps: float = 1e-3,
        initial_mean: float = 20.0,
        initial_std: float = 100.0,
        keep_gradient: bool = False,
        gradient: str = "exact",
        focal: float = 0.0,
    ):
        super().__init__(s, focal)
        require(0 <= m <= math.pi / 2, "m", m, "in [0, π/2] radians")
        require(gradient in GRADIENTS, "gradient", gradient, f"one of {GRADIENTS}")
        clips = gradient == "exact"
        require(clips or not keep_gradient, "keep_gradient", True, "False with gradient='straight_through'")
        require(0 < eps < math.pi / 2, "eps", eps, "in (0, π/2) radians")
        self.m, self.eps, self.keep_gradient, self.gradient = m, eps, keep_gradient, gradient
        self.quality = FeatureQuality(h, t_alpha, initial_mean, initial_std, eps)

    def update_state(self, own_cos: Tensor, norms: Tensor) -> None:
        self.quality.update(norms)

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        quality = self.quality(norms)
        phi = angle(own_cos) - self.m * quality
        if self.gradient == "straight_through":
            return self.scale * straight_through(phi.cos() - self.m - self.m * quality, own_cos)
        clipped = phi.clamp(self.eps, math.pi - self.eps)
        margined = clipped.cos()
        if self.keep_gradient:
            margined = torch.where(clipped == phi, margined, straight_through(margined, own_cos))
        return self.scale * (margined - self.m - self.m * quality)


class MagFace(MarginLoss):
    """s·cos(θ + m(a)) for the own class, a the norm clipped to [l_a, u_a], and a term that rewards long ones.

    m(a) rises linearly from l_margin to u_margin: the better an image, the more is asked of it. The term,
    λ_g·(a/u_a² + 1/a) per sample, falls up to a = u_a. Both carry gradient to the norm within its range,
    none outside. Where θ + m > π there is no margin, as in the authors' code: a step.

    Args:
        l_a, u_a: range of the norm, 0 < l_a < u_a.
        l_margin, u_margin: margins in radians there, 0 <= l_margin <= u_margin <= π/2.
        lambda_g: weight of the term on the norm, >= 0.
    """

    def __init__(
        self,
        s: float = 64.0,
        l_a: float = 10.0,
        u_a: float = 110.0,
        l_margin: float = 0.45,
        u_margin: float = 0.8,
        lambda_g: float = 20.0,
        focal: float = 0.0,
    ):
        super().__init__(s, focal)
        require(u_a < math.inf, "u_a", u_a, "finite")
        require(0 < l_a < u_a, "l_a", l_a, f"in (0, u_a={u_a})")
        require(0 <= u_margin <= math.pi / 2, "u_margin", u_margin, "in [0, π/2] radians")
        require(0 <= l_margin <= u_margin, "l_margin", l_margin, f"in [0, u_margin={u_margin}] radians")
        require(0 <= lambda_g < math.inf, "lambda_g", lambda_g, ">= 0")
        self.l_a, self.u_a, self.l_margin, self.u_margin = l_a, u_a, l_margin, u_margin
        self.lambda_g = lambda_g

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        slope = (self.u_margin - self.l_margin) / (self.u_a - self.l_a)
        margin = slope * (norms.clamp(self.l_a, self.u_a) - self.l_a) + self.l_margin
        phi = angle(own_cos) + margin
        return self.scale * torch.where(phi > math.pi, own_cos, phi.cos())

    def norm_term(self, norms: Tensor) -> Tensor:
        """What each sample pays for a short embedding: `(B,)` raw norms -> `(B,)`, least at u_a."""
        a = norms.clamp(self.l_a, self.u_a)
        return self.lambda_g * (a / self.u_a**2 + 1 / a)

    def per_sample(self, own_logit: Tensor, lse_others: Tensor, norms: Tensor) -> Tensor:
        return super().per_sample(own_logit, lse_others, norms) + self.norm_term(norms)
