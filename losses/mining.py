"""Margin losses that also raise the logits of hard negatives: other classes nearer than the margin allows.

With θ the angle to the own class, another class j is hard where cos_j exceeds the own cosine less its margin.

- MV-Softmax (Wang et al., Mis-classified Vector Guided Softmax Loss for Face Recognition, AAAI 2020,
  https://arxiv.org/abs/1912.00833).
- CurricularFace (Huang et al., CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition,
  CVPR 2020, https://arxiv.org/abs/2004.00288).
- NPCFace (Zeng et al., NPCFace: Negative-Positive Collaborative Training for Large-scale Face Recognition,
  2020, https://arxiv.org/abs/2007.10172).

Which classes are hard is a matter of yes or no and carries no gradient.
"""

import math

import torch
from torch import Tensor

from losses.base import KernelInputs, MarginLoss, angle, moving_average
from losses.margin import ArcFace
from utils.errors import require

KINDS = ("am", "arc")


class MVSoftmax(MarginLoss):
    """A hard negative's logit is s·(t·cos_j + t − 1), which is s·cos_j raised by s·(t − 1)·(cos_j + 1).

    As in the authors' code the own class has its margin only where that is not too hard: cos θ − m where
    cos θ > m, cos(θ + m) where cos θ > 0, else cos θ: a step. Which negatives are hard is always told with
    the margin.

    Args:
        kind: "am", hard where cos_j > cos θ − m; or "arc", hard where cos_j > cos(θ + m).
        m: margin, a cosine for "am", radians for "arc", in [0, π/2].
        t: weight of hard negatives, >= 1; 1: all are as easy ones.
    """

    moves_others = True
    kernel = "raised"

    def __init__(
        self, s: float = 32.0, kind: str = "am", m: float = 0.35, t: float = 1.12, focal: float = 0.0
    ):
        super().__init__(s, focal)
        require(kind in KINDS, "kind", kind, f"one of {KINDS}")
        require(0 <= m <= math.pi / 2, "m", m, "in [0, π/2]")
        require(1 <= t < math.inf, "t", t, ">= 1")
        self.kind, self.m, self.t = kind, m, t

    def margined(self, own_cos: Tensor) -> Tensor:
        """The own cosine with its margin, any shape; another class is hard above it."""
        return own_cos - self.m if self.kind == "am" else (angle(own_cos) + self.m).cos()

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        lowest = self.m if self.kind == "am" else 0
        return self.scale * torch.where(own_cos > lowest, self.margined(own_cos), own_cos)

    def other_logits(self, cos: Tensor, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        hard = cos > self.margined(own_cos)
        return self.scale * torch.where(hard, self.t * cos + (self.t - 1), cos)

    def kernel_inputs(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> KernelInputs:
        return KernelInputs(self.margined(own_cos.detach()), constants=(self.scale, self.t, self.t - 1))


class CurricularFace(ArcFace):
    """ArcFace whose hard negatives, cos_j > cos(θ + m), have the logit s·cos_j·(t + cos_j).

    t follows the mean own cosine, so that hard negatives weigh more as training succeeds. It is advanced
    over the global batch before it is used, and carries no gradient.

    Args:
        m: margin in radians, in [0, π/2].
        t0: what t starts from.
        t_alpha: share of the new mean in the moving average, in (0, 1].
    """

    moves_others = True
    kernel = "curricular"

    def __init__(
        self, s: float = 64.0, m: float = 0.5, t0: float = 0.0, t_alpha: float = 0.01, focal: float = 0.0
    ):
        super().__init__(s, m, focal=focal)
        require(-1 <= t0 <= 1, "t0", t0, "in [-1, 1] (a mean of cosines)")
        require(0 < t_alpha <= 1, "t_alpha", t_alpha, "in (0, 1]")
        self.t_alpha = t_alpha
        self.register_buffer("t", torch.tensor(float(t0)))

    def update_state(self, own_cos: Tensor, norms: Tensor) -> None:
        moving_average(self.t, own_cos.mean(), self.t_alpha)

    def other_logits(self, cos: Tensor, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        hard = cos > (angle(own_cos) + self.m).cos()
        return self.scale * torch.where(hard, cos * (self.t + cos), cos)

    def kernel_inputs(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> KernelInputs:
        hardest = (angle(own_cos.detach()) + self.m).cos()
        return KernelInputs(hardest, self.t, (self.scale, 0.0, 0.0))


class NPCFace(MarginLoss):
    """The harder a sample's negatives, the larger its own margin: s·cos(θ + m0 + m1·λ).

    λ is the mean cosine of the sample's hard negatives, cos_j > cos(θ + m_hard), as they are before they are
    raised; 0 without any; without gradient, as in public code. Their own logits are s·(t·cos_j + a). Where
    cos θ <= 0 the own class has no margin: a step.

    Args:
        m0, m1: margin in radians and what λ adds to it, >= 0, together <= π/2.
        m_hard: margin in radians that tells the hard negatives, in [0, π/2].
        t, a: factor >= 1 and offset >= 0 of a hard negative's cosine.
    """

    moves_others = True
    has_row_statistics = True
    kernel = "raised"
    kernel_statistics = "hard_negatives"

    def __init__(
        self,
        s: float = 64.0,
        m0: float = 0.4,
        m1: float = 0.2,
        t: float = 1.1,
        a: float = 0.25,
        m_hard: float = 0.4,
        focal: float = 0.0,
    ):
        super().__init__(s, focal)
        require(0 <= m0 <= math.pi / 2, "m0", m0, "in [0, π/2] radians")
        require(0 <= m1 <= math.pi / 2 - m0, "m1", m1, f"in [0, π/2 − m0] radians, with m0={m0}")
        require(1 <= t < math.inf, "t", t, ">= 1")
        require(0 <= a < math.inf, "a", a, ">= 0")
        require(0 <= m_hard <= math.pi / 2, "m_hard", m_hard, "in [0, π/2] radians")
        self.m0, self.m1, self.t, self.a, self.m_hard = m0, m1, t, a, m_hard

    def is_hard(self, cos: Tensor, own_cos: Tensor) -> Tensor:
        """Which classes are hard negatives: cosines `(B, n)`, own cosines `(B, 1)` -> `(B, n)` bool."""
        return cos > (angle(own_cos) + self.m_hard).cos()

    def row_statistics(self, cos: Tensor, own_cos: Tensor, norms: Tensor) -> dict[str, tuple[Tensor, str]]:
        hard = self.is_hard(cos, own_cos)
        return {"hard": (cos * hard, "sum"), "num_hard": (hard, "sum")}

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        mean_hard = statistics["hard"] / statistics["num_hard"].clamp_min(1)
        margined = (angle(own_cos) + self.m0 + self.m1 * mean_hard).cos()
        return self.scale * torch.where(own_cos > 0, margined, own_cos)

    def other_logits(self, cos: Tensor, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        return self.scale * torch.where(self.is_hard(cos, own_cos), self.t * cos + self.a, cos)

    def kernel_inputs(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> KernelInputs:
        hardest = (angle(own_cos.detach()) + self.m_hard).cos()
        return KernelInputs(hardest, constants=(self.scale, self.t, self.a))
