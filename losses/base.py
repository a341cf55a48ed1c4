"""What a loss and a regulariser have to say to PartialFC, and nothing about ranks, chunks or sampling.

A margin loss turns cosines into logits. It sees vectors over the global batch, `(B,)`, and one elementwise
function of the cosines with the other classes, which PartialFC calls on whatever block of classes it has
at hand. Everything arrives in float32 (float64 in tests).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import require

COS_LIMIT = 1 - 1e-7  # strictly inside ±1 in float32: beyond it acos has no finite derivative


def angle(cos: Tensor) -> Tensor:
    """arccos in radians, finite with its derivative everywhere; a clamped cosine gets no gradient."""
    return cos.clamp(-COS_LIMIT, COS_LIMIT).acos()


def moving_average(average: Tensor, value: Tensor, share: float) -> None:
    """average ← share·value + (1 − share)·average, in place; a value that is not finite changes nothing.

    Such values come with an overflow under fp16. The step is then skipped; its statistics would stay.
    """
    moved = share * value + (1 - share) * average
    average.copy_(torch.where(moved.isfinite(), moved, average))


class MarginLoss(nn.Module):
    """A loss of the margin family; by itself the normalised softmax (NormFace) cross-entropy.

    Subclasses override what their paper changes. Vectors are `(B,)` over the global batch, equal on every
    rank: own_cos, cosine of each sample with its own class; norms, length of the raw embedding, carrying
    gradient; row, this loss's reduced `row_statistics` by name. Blocks are `(B, n)`: cos, cosines with n
    other classes. With `normalize = False` inner products stand in place of cosines.

    Args:
        s: scale of the logits, > 0.
        focal: exponent γ of (1 − p_own)^γ on each sample's cross-entropy (Lin et al., Focal Loss,
            https://arxiv.org/abs/1708.02002); 0: plain cross-entropy.
    """

    normalize = True
    linear_others = True  # other_logits is scale · cos, which PartialFC may fuse with the product

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.linear_others = cls.other_logits is MarginLoss.other_logits

    def __init__(self, s: float = 64.0, focal: float = 0.0):
        super().__init__()
        require(0 < s < math.inf, "s", s, "> 0")
        require(0 <= focal < math.inf, "focal", focal, ">= 0")
        self.scale = s
        self.focal = focal

    def set_progress(self, step: int, epoch: float, num_epoch: float) -> None:
        """Where training stands, before each step; for annealing."""

    def update_state(self, own_cos: Tensor, norms: Tensor) -> None:
        """Advance running statistics (buffers): once a step, before any logit. The inputs are detached."""

    def row_statistics(self, cos: Tensor, own_cos: Tensor, norms: Tensor) -> dict[str, tuple[Tensor, str]]:
        """Elementwise terms `(B, n)`, each with "sum" or "max": how it is reduced over the other classes.

        The results reach the methods below as row[name] `(B,)`, without gradient.
        """
        return {}

    def own_logit(self, own_cos: Tensor, norms: Tensor, row: dict[str, Tensor]) -> Tensor:
        """`(B,)` -> `(B,)`: the logit of each sample's own class."""
        return self.scale * own_cos

    def other_logits(self, cos: Tensor, own_cos: Tensor, norms: Tensor, row: dict[str, Tensor]) -> Tensor:
        """`(B, n)` -> `(B, n)`, elementwise; own_cos, norms and row arrive as `(B, 1)`. -inf: not a class."""
        return self.scale * cos

    def per_sample(self, own_logit: Tensor, lse_others: Tensor, norms: Tensor) -> Tensor:
        """`(B,)` x 3 -> `(B,)`: each sample's loss from its own logit and the log-sum-exp over the others.

        −log p_own = softplus(lse_others − own_logit) loses no digits near p = 1 and never saturates.
        """
        difference = lse_others - own_logit
        cross_entropy = F.softplus(difference)
        if self.focal:
            # Not sigmoid ** focal: at p_own = 1 and focal < 1 that has the derivative 0^(focal − 1) = inf.
            return (self.focal * F.logsigmoid(difference)).exp() * cross_entropy
        return cross_entropy

    def extra_repr(self) -> str:
        """Every setting, for the log of a run."""
        kinds = int | float | str | tuple
        settings = {name: value for name, value in vars(self).items() if isinstance(value, kinds)}
        hidden = ("training", "linear_others")
        return ", ".join(f"{n}={v!r}" for n, v in settings.items() if n[0] != "_" and n not in hidden)

    def terms(self) -> dict[str, Tensor]:
        """Scalar state worth a line in the log."""
        return {name: buffer.detach() for name, buffer in self.named_buffers() if buffer.ndim == 0}


class Regularizer(nn.Module):
    """A term on the embeddings, added to any loss. Called with the global batch, equal on every rank.

    PartialFC hands over only what the subclass asks for, None otherwise:

        embeddings: `(B, D)`, unit length (raw if the loss does not normalise).
        norms: `(B,)`, length of the raw embeddings.
        labels: `(B,)`.
        own_centres: `(B, D)`, the raw centre of each sample's class, with gradient.
        max_cos: `(B,)`, largest cosine with any (sampled) class, without gradient.
        own_rows: `(B, D)`, the row of each sample's class in `class_rows`, before this step, with gradient.

    `class_rows`, where a subclass makes it in `prepare`, has a row for each class of this rank, sharded and
    saved by class as the centres are. An optimiser moves it, or, without requires_grad, `new_rows` does.
    """

    name = "term"  # in the log
    needs_own_centres = False
    needs_max_cos = False

    def __init__(self):
        super().__init__()
        self.register_parameter("class_rows", None)

    def prepare(self, num_local: int, embedding_size: int) -> None:
        """Make what depends on these sizes; called once. The same values for each class, on any rank."""

    def set_progress(self, step: int, epoch: float, num_epoch: float) -> None:
        """Where training stands, before each step; for ramps."""

    def update_state(self, embeddings: Tensor, norms: Tensor, labels: Tensor, max_cos: Tensor | None) -> None:
        """Advance memories and running statistics (buffers) before the term; as `MarginLoss.update_state`."""

    def new_rows(self, own_rows: Tensor, embeddings: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """What `own_rows` become after this step, `(B, D)`, equal for equal labels."""
        return own_rows

    def forward(
        self,
        embeddings: Tensor,
        norms: Tensor,
        labels: Tensor,
        own_centres: Tensor | None,
        max_cos: Tensor | None,
        own_rows: Tensor | None,
    ) -> Tensor:
        """The term as a scalar, weight included."""
        raise NotImplementedError
