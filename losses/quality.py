"""Image quality as AdaFace reads it: from the feature norm, against the norms of recent batches."""

import math

import torch
from torch import Tensor, nn

from losses.base import moving_average
from utils.errors import require

NORM_RANGE = (1e-3, 100.0)  # AdaFace's own: one broken feature shall not move the statistics at will


class FeatureQuality(nn.Module):
    """k = clip(h·(n − μ)/(σ + eps), −1, 1): about −1 where the norm n is low, 1 where it is high.

    μ and σ are moving averages of mean and unbiased standard deviation of the norms of a global batch. A
    batch of one has no deviation and leaves σ alone, as does one whose norms are not finite.

    Args:
        h: how many units of k one standard deviation is, > 0.
        t_alpha: share of the new batch in the moving averages, in (0, 1].
        initial_mean, initial_std: what μ and σ start from, >= 0.
        eps: added to σ, > 0.
    """

    def __init__(self, h: float, t_alpha: float, initial_mean: float, initial_std: float, eps: float = 1e-3):
        super().__init__()
        require(0 < h < math.inf, "h", h, "> 0")
        require(0 < t_alpha <= 1, "t_alpha", t_alpha, "in (0, 1]")
        require(0 <= initial_mean < math.inf, "initial_mean", initial_mean, ">= 0")
        require(0 <= initial_std < math.inf, "initial_std", initial_std, ">= 0")
        require(eps > 0, "eps", eps, "> 0")
        self.h, self.t_alpha, self.eps = h, t_alpha, eps
        self.register_buffer("batch_mean", torch.tensor(float(initial_mean)))
        self.register_buffer("batch_std", torch.tensor(float(initial_std)))

    def update(self, norms: Tensor) -> None:
        """Advance μ and σ by the raw norms `(B,)` of the global batch."""
        norms = norms.detach().clamp(*NORM_RANGE)
        moving_average(self.batch_mean, norms.mean(), self.t_alpha)
        if len(norms) > 1:
            moving_average(self.batch_std, norms.std(), self.t_alpha)

    def forward(self, norms: Tensor) -> Tensor:
        """Raw norms -> k in [−1, 1], any shape, without gradient."""
        norms = norms.detach().clamp(*NORM_RANGE)
        return (self.h * (norms - self.batch_mean) / (self.batch_std + self.eps)).clamp(-1, 1)
