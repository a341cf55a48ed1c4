"""Noise Direction Regularisation: embeddings keep away from directions that only noise has.

Gim and Sohn, Regularization Using Noise Samples Identified by the Feature Norm for Face Recognition, IEEE
Access 12, 2024, https://doi.org/10.1109/ACCESS.2024.3453030; their code is NDR-FACE. Images that nobody could
recognise end up in directions of their own, with long features; a face of low quality that drifts there looks
like all other such faces.
"""

import math

import torch
from torch import Tensor

from losses.base import Batch, Regularizer
from losses.quality import FeatureQuality
from utils.errors import require

OVER = ("non_noise", "all")
WHEN_FULL = ("drop_oldest", "drop_newest")


class NDR(Regularizer):
    """weight·ramp·mean over samples i and memory q of |cos(e_i, q)|·‖q‖₁, q of unit length.

    A sample is noise where no (sampled) class is near, max_j cos_ij < max_cos, although its norm is long,
    k > min_k with AdaFace's k (see `FeatureQuality`). Its direction joins the memory, detached, before the
    term is computed. Two matrix products, (B, D)·(D, Q) and (B, Q)·(Q,); the term is 0 where there is nobody
    to keep away, or nothing to keep away from.

    Departures from public code: a full memory drops its oldest entries, not its newest (`when_full`), and the
    ramp has no steps (`ramp`); the memory is part of a checkpoint, and the same on every rank. Each
    micro-batch of an accumulated step counts as a step of it.

    Args:
        weight: of the term at the end of the ramp, > 0.
        ramp: how the weight gets there: "epoch", epoch/num_epoch, which rises with every step; "whole_epoch",
            the same but constant within an epoch and 0 in the first, as the published runs; a number of
            steps, linearly; None: at once.
        memory_size: entries, >= 1.
        when_full: "drop_oldest" makes room for new entries; "drop_newest" takes none until old ones have
            left, as the published runs.
        max_age: steps after which an entry leaves, its first included, >= 1.
        max_cos: cosine, in (-1, 1].
        min_k: in [-1, 1).
        h, t_alpha, initial_mean, initial_std: see `FeatureQuality`.
        over: "non_noise" samples are kept away; or "all", as NDR's variant for ArcFace.
    """

    name = "ndr"
    needs_max_cos = True

    def __init__(
        self,
        weight: float = 10.0,
        ramp: str | float | None = "epoch",
        memory_size: int = 300,
        when_full: str = "drop_oldest",
        max_age: int = 1000,
        max_cos: float = 0.5,
        min_k: float = 0.2,
        h: float = 0.333,
        t_alpha: float = 1.0,
        initial_mean: float = 10.0,
        initial_std: float = 10.0,
        over: str = "non_noise",
    ):
        super().__init__()
        require(0 < weight < math.inf, "weight", weight, "> 0")
        is_number = isinstance(ramp, int | float) and not isinstance(ramp, bool) and 0 < ramp < math.inf
        allowed = "'epoch', 'whole_epoch', a number of steps > 0, or None"
        require(is_number or ramp in ("epoch", "whole_epoch", None), "ramp", ramp, allowed)
        require(when_full in WHEN_FULL, "when_full", when_full, f"one of {WHEN_FULL}")
        for name, count in (("memory_size", memory_size), ("max_age", max_age)):
            require(isinstance(count, int) and count >= 1, name, count, "a whole number >= 1")
        require(-1 < max_cos <= 1, "max_cos", max_cos, "in (-1, 1] (a cosine)")
        require(-1 <= min_k < 1, "min_k", min_k, "in [-1, 1)")
        require(over in OVER, "over", over, f"one of {OVER}")
        self.weight, self.ramp, self.over, self.when_full = weight, ramp, over, when_full
        self.memory_size, self.max_age, self.max_cos, self.min_k = memory_size, max_age, max_cos, min_k
        self.quality = FeatureQuality(h, t_alpha, initial_mean, initial_std)
        self.progress = None if ramp else 1.0  # share of the weight

    def prepare(self, num_local: int, embedding_size: int) -> None:
        # Oldest first; what is free is 0.
        self.register_buffer("memory", torch.zeros(self.memory_size, embedding_size))
        self.register_buffer("steps_left", torch.zeros(self.memory_size, dtype=torch.int64))

    def set_progress(self, step: int, epoch: float, num_epoch: float) -> None:
        if self.ramp in ("epoch", "whole_epoch"):
            require(num_epoch > 0, "num_epoch", num_epoch, f"> 0 for ndr's ramp={self.ramp!r}")
            done = epoch if self.ramp == "epoch" else math.floor(epoch)
            self.progress = min(done / num_epoch, 1.0)
        elif self.ramp:
            self.progress = min(step / self.ramp, 1.0)

    def update_state(self, batch: Batch) -> None:
        """Age the memory by a step, and take in the noise among the global batch's `(B, D)` directions."""
        self.quality.update(batch.norms)
        # By masks and a stable sort, which make no GPU wait for the number of noise samples.
        arriving = self.is_noise(batch) * self.max_age
        left = torch.cat([(self.steps_left - 1).clamp_min(0), arriving])
        entries = torch.cat([self.memory, batch.embeddings])
        entries = torch.where(left[:, None] > 0, entries, 0)
        if self.when_full == "drop_oldest":
            kept = (left > 0).int().argsort(stable=True)[-self.memory_size :]
        else:
            kept = (left <= 0).int().argsort(stable=True)[: self.memory_size]
        self.memory.copy_(entries[kept])
        self.steps_left.copy_(left[kept])

    def is_noise(self, batch: Batch) -> Tensor:
        """Which samples are noise, `(B,)` bool: near no class, and with a long norm."""
        return (batch.max_cos < self.max_cos) & (self.quality(batch.norms) > self.min_k)

    def forward(self, batch: Batch) -> Tensor:
        if self.progress is None:
            raise ValueError(
                f"regularizer 'ndr' with ramp={self.ramp!r} has no schedule to follow: call "
                "head.set_progress(step, epoch, num_epoch) before each step, or set ramp=None"
            )
        noise = self.is_noise(batch)
        kept_away = torch.ones_like(noise) if self.over == "all" else ~noise
        similarity = (batch.embeddings @ self.memory.T).abs() @ self.memory.abs().sum(1)  # (B,)
        pairs = kept_away.sum() * (self.steps_left > 0).sum()
        mean = torch.where(kept_away, similarity, 0).sum() / pairs.clamp_min(1)
        return self.weight * self.progress * mean
