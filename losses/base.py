"""What a loss and a regulariser say to PartialFC, and nothing about ranks, chunks or sampling.

A margin loss turns cosines into logits. It sees vectors over the global batch, `(B,)`, and one elementwise
function of the cosines with the other classes, which PartialFC calls on whatever block of classes it has
at hand. Everything arrives in float32 (float64 in tests). docs/classifier.md has the order of the calls.
"""

import math
from typing import NamedTuple

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


class KernelInputs(NamedTuple):
    """What the Triton function of a loss gets beside the cosines; see losses/kernel_logits.py.

    A tensor that requires a gradient gets one; cosines that only decide which class is hard are detached.

    Attributes:
        row: `(B,)`; None where the function reads none.
        scalar: 0-dim, a buffer or a parameter; None where the function reads none.
        constants: (scale, a, b).
    """

    row: Tensor | None = None
    scalar: Tensor | None = None
    constants: tuple[float, float, float] = (1.0, 0.0, 0.0)


class MarginLoss(nn.Module):
    """A loss of the margin family; by itself the normalised softmax (NormFace) cross-entropy.

    Subclasses override what their paper changes. Vectors are `(B,)` over the global batch, equal on every
    rank: own_cos, cosine of each sample with its own class; norms, length of the raw embedding, carrying
    gradient; statistics, by name what `draw` drew and `row_statistics` reduced. Blocks are `(B, n)`: cos,
    cosines with n other classes. With `normalize = False` inner products stand in place of cosines.

    A loss may have parameters (`nn.Parameter`). Every rank gets their whole gradient, the same one, and the
    optimiser moves them without weight decay. What is random comes from `draw` alone: torch's own generator
    differs between ranks, and so would the loss.

    Args:
        s: scale of the logits, > 0.
        focal: exponent γ of (1 − p_own)^γ on each sample's cross-entropy (Lin et al., Focal Loss,
            https://arxiv.org/abs/1708.02002); 0: plain cross-entropy.

    Attributes:
        normalize: whether embeddings and centres are divided by their lengths.
        moves_others: False: `other_logits` is scale · cos, and the scale goes into the matrix product. True:
            anything else. A subclass that overrides it sets this; `check_declarations` finds one that forgot.
        has_row_statistics: whether `row_statistics` returns any; likewise.
        kernel, kernel_statistics: `other_logits` and `row_statistics` as functions of losses/kernel_logits.py
            for the GPU kernels; None: there is none, PyTorch computes this loss. A linear loss needs none.
    """

    normalize = True
    moves_others = False
    has_row_statistics = False
    kernel: str | None = None
    kernel_statistics: str | None = None

    def __init__(self, s: float = 64.0, focal: float = 0.0):
        super().__init__()
        require(0 < s < math.inf, "s", s, "> 0")
        require(0 <= focal < math.inf, "focal", focal, ">= 0")
        self.scale = s
        self.focal = focal

    def prepare(self, num_classes: int) -> None:
        """Set what depends on the number of classes that a step sees on all ranks; called once."""

    def set_progress(self, step: int, epoch: float, num_epoch: float) -> None:
        """Where training stands, before each step; for annealing."""

    def draw(self, generator: torch.Generator, batch_size: int) -> dict[str, Tensor]:
        """The random numbers of a step by name, `(batch_size,)` each, drawn from this CPU generator alone.

        The generator is a function of (seed, step, micro-batch), and a sample's numbers are those at its
        place in the global batch: they depend neither on the ranks nor on the engine or its chunks. The
        adversarial pass of a micro-batch starts from the same generator as its training pass.
        """
        return {}

    def update_state(self, own_cos: Tensor, norms: Tensor) -> None:
        """Advance running statistics (buffers): once a step, before any logit but scale · cos.

        The inputs are detached. A loss whose scale moves here needs `moves_others`.
        """

    def row_statistics(self, cos: Tensor, own_cos: Tensor, norms: Tensor) -> dict[str, tuple[Tensor, str]]:
        """Elementwise terms `(B, n)`, each with "sum" or "max": how it is reduced over the other classes.

        The results reach the methods below as statistics[name] `(B,)`, without gradient. The first call has
        no class, n = 0: it tells the names and kinds.
        """
        return {}

    def own_logit(self, own_cos: Tensor, norms: Tensor, statistics: dict[str, Tensor]) -> Tensor:
        """`(B,)` -> `(B,)`: the logit of each sample's own class."""
        return self.scale * own_cos

    def other_logits(
        self, cos: Tensor, own_cos: Tensor, norms: Tensor, statistics: dict[str, Tensor]
    ) -> Tensor:
        """`(B, n)` -> `(B, n)`, elementwise; all else arrives as `(B, 1)`. -inf: not a class.

        `stream` calls it again in the backward pass, so it draws nothing and keeps nothing. It does not call
        it at all for a loss with neither `moves_others` nor `has_row_statistics`.
        """
        return self.scale * cos

    def kernel_inputs(self, own_cos: Tensor, norms: Tensor, statistics: dict[str, Tensor]) -> KernelInputs:
        """What the function `kernel` gets, from vectors `(B,)`; row statistics may not be there yet."""
        return KernelInputs()

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

    def advantage(self, own_logit: Tensor, other_logit: Tensor) -> Tensor:
        """How far the own class wins against another one, 0 on the decision boundary. For pictures."""
        return own_logit - other_logit

    def check_declarations(self) -> None:
        """Raise ValueError where `moves_others` or `has_row_statistics` denies what the methods do."""
        cos = torch.linspace(-0.9, 0.9, 7)[None]  # (1, 7)
        own_cos, norms = torch.full((1, 1), 0.3), torch.full((1, 1), 20.0)
        name = type(self).__name__
        if not self.has_row_statistics and self.row_statistics(cos, own_cos, norms):
            raise ValueError(f"{name} has row_statistics: set has_row_statistics = True")
        if not (self.moves_others or self.has_row_statistics):
            draws = {key: value[:, None] for key, value in self.draw(torch.Generator(), 1).items()}
            with torch.enable_grad():
                logits = self.other_logits(cos, own_cos, norms, draws)
            if logits.requires_grad:
                raise ValueError(f"{name}.other_logits reads a parameter: set moves_others = True")
            if not torch.equal(logits, self.scale * cos):
                raise ValueError(f"{name}.other_logits is not scale · cos: set moves_others = True")

    def extra_repr(self) -> str:
        """Every setting, for the log of a run."""
        kinds = int | float | str | tuple
        settings = {name: value for name, value in vars(self).items() if isinstance(value, kinds)}
        hidden = ("training", "moves_others", "has_row_statistics")
        return ", ".join(f"{n}={v!r}" for n, v in settings.items() if n[0] != "_" and n not in hidden)

    def terms(self) -> dict[str, Tensor]:
        """Scalar state worth a line in the log: running statistics and parameters."""
        state = [*self.named_buffers(), *self.named_parameters()]
        return {name: tensor.detach().clone() for name, tensor in state if tensor.ndim == 0}


class Batch(NamedTuple):
    """The global batch as a regulariser sees it, equal on every rank.

    Attributes:
        raw: `(B, D)`, the embeddings as the network gives them; 0 where there is no direction (too short, or
            longer than float32 can square).
        embeddings: `(B, D)`, the same with unit length; 0 where there is no direction.
        norms: `(B,)`, the lengths of `raw`.
        labels: `(B,)`.
        own_centres: `(B, D)`, the raw centre of each sample's class; None unless `needs_own_centres`.
        max_cos: `(B,)`, largest cosine with any (sampled) class, detached; None unless `needs_max_cos`.
        own_rows: `(B, D)`, the row of each sample's class in `class_rows`, before this step; None if none.
    """

    raw: Tensor
    embeddings: Tensor
    norms: Tensor
    labels: Tensor
    own_centres: Tensor | None = None
    max_cos: Tensor | None = None
    own_rows: Tensor | None = None

    def detached(self) -> "Batch":
        """The same numbers without their graph."""
        return Batch(*(tensor if tensor is None else tensor.detach() for tensor in self))


class Regularizer(nn.Module):
    """A term on the embeddings, added to any loss; called once a step with the global batch.

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

    def update_state(self, batch: Batch) -> None:
        """Advance memories and running statistics (buffers) before the term; the batch is detached."""

    def new_rows(self, batch: Batch) -> Tensor:
        """What `batch.own_rows` become after this step, `(B, D)`, equal for equal labels; detached."""
        return batch.own_rows

    def forward(self, batch: Batch) -> Tensor:
        """The term as a scalar, weight included."""
        raise NotImplementedError
