"""ElasticFace: a margin that is drawn anew for each sample and step.

Boutros et al., ElasticFace: Elastic Margin Loss for Deep Face Recognition, CVPR Workshops 2022,
https://arxiv.org/abs/2109.09416. One fixed margin asks the same of all samples; margins around it let the
decision boundary move in and out.
"""

import math

import torch
from torch import Tensor

from losses.base import MarginLoss, angle
from utils.errors import require

KINDS = ("arc", "cos")


class ElasticFace(MarginLoss):
    """s·cos(θ + m_i) or s·(cos θ − m_i) for the own class, with m_i from N(m, std²).

    With `plus` the samples that are farther from their class get the larger of the margins that were drawn
    for the batch: the lowest own cosine of the global batch the largest margin, and so on.

    Departures: margins are clipped to the range that a fixed one may have, and where θ + m_i > π the logit
    keeps falling as ArcFace's does. `plus` is as the paper's text has it; the authors' code indexes the
    sorted margins by the sorting order of the cosines, which is not the order of the samples.

    Args:
        kind: "arc", margins in radians, in [0, π/2]; or "cos", margins in cosine, >= 0.
        m: mean of the margins, in [0, π/2] of either kind; the paper has 0.5 for "arc" and 0.35 for "cos".
        std: their standard deviation, >= 0.
        plus: whether margins follow the own cosines.
    """

    def __init__(
        self,
        s: float = 64.0,
        kind: str = "arc",
        m: float = 0.5,
        std: float = 0.05,
        plus: bool = False,
        focal: float = 0.0,
    ):
        super().__init__(s, focal)
        require(kind in KINDS, "kind", kind, f"one of {KINDS}")
        require(0 <= m <= math.pi / 2, "m", m, "in [0, π/2]")
        require(0 <= std < math.inf, "std", std, ">= 0")
        self.kind, self.m, self.std, self.plus = kind, m, std, plus

    def draw(self, generator: torch.Generator, batch_size: int) -> dict[str, Tensor]:
        margin = self.m + self.std * torch.randn(batch_size, generator=generator)
        return {"margin": margin.clamp(0, math.pi / 2 if self.kind == "arc" else math.inf)}

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        margin = statistics["margin"]
        if self.plus:
            hardest_first = own_cos.detach().argsort(stable=True)
            largest_first = margin.sort(descending=True).values
            margin = torch.empty_like(margin).index_copy(0, hardest_first, largest_first)
        if self.kind == "cos":
            return self.scale * (own_cos - margin)
        phi = angle(own_cos) + margin
        return self.scale * torch.where(phi > math.pi, own_cos - margin * margin.sin(), phi.cos())
