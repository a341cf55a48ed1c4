"""Circle loss: each similarity is pushed the harder, the farther it is from where it should be.

Sun et al., Circle Loss: A Unified Perspective of Pair Similarity Optimization, CVPR 2020,
https://arxiv.org/abs/2002.10857; eq. 6 with the class centres as the other side of each pair.
"""

import math

from torch import Tensor

from losses.base import KernelInputs, MarginLoss
from utils.errors import require


class Circle(MarginLoss):
    """log(1 + Σ_j exp(γ·α_j·(cos_j − m)) · exp(γ·α_y·(1 − m − cos θ))), j over the other classes.

    The weights α_y = [1 + m − cos θ]₊ and α_j = [cos_j + m]₊ carry no gradient, as in the paper: the gradient
    is not the derivative of the loss. That of the own class is −γ·α_y times its probability of error.

    Args:
        m: relaxation, a cosine in [0, 1): aims at cos θ > 1 − m and cos_j < m.
        gamma: scale of the logits, > 0.
    """

    moves_others = True
    kernel = "circle"

    def __init__(self, m: float = 0.25, gamma: float = 256.0, focal: float = 0.0):
        require(0 < gamma < math.inf, "gamma", gamma, "> 0")
        super().__init__(gamma, focal)
        require(0 <= m < 1, "m", m, "in [0, 1) (a cosine)")
        self.m = m

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        weight = (1 + self.m - own_cos.detach()).relu()
        return self.scale * weight * (own_cos - (1 - self.m))

    def other_logits(self, cos: Tensor, own_cos: Tensor, norms: Tensor, statistics: dict) -> Tensor:
        weight = (cos.detach() + self.m).relu()
        return self.scale * weight * (cos - self.m)

    def kernel_inputs(self, own_cos: Tensor, norms: Tensor, statistics: dict) -> KernelInputs:
        return KernelInputs(constants=(self.scale, self.m, 0.0))
