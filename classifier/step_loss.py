"""A margin loss in one step, with what it draws, reduces and learns.

A loss (`losses/base.py`) is elementwise maths and knows nothing of ranks or chunks. The engines call it
through `StepLoss`, which adds what belongs to one step: the random draws, the row statistics reduced over all
ranks, and the state of the forward pass, which the backward pass needs again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from classifier.shard import fill_own
from losses.base import KernelInputs, MarginLoss
from utils.buffers import exchanged
from utils.distributed import max_together, sum_together
from utils.unit_vectors import MIN_NORM, inverse_norm, normalise

EVERY_SAMPLE = slice(None)
NEUTRAL = {"sum": 0.0, "max": -math.inf}  # what changes no reduction of that kind
TOGETHER = {"sum": sum_together, "max": max_together}
MAX_SCALE = 64.0  # e^±64, and 10^10 times that, are ordinary numbers in float32


class StepLoss:
    """The loss of a global batch of B samples.

    Args:
        loss: the module.
        draws: name -> `(B,)`, what `loss.draw` returned for this step, equal on every rank.
        updates_state: whether this step moves the running statistics of the loss on.

    Attributes:
        statistics: name -> `(B,)`, the draws and, once the engine has reduced them, the row statistics.
    """

    def __init__(self, loss: MarginLoss, draws: Mapping[str, Tensor], updates_state: bool):
        self.loss, self.updates_state = loss, updates_state
        self.statistics: dict[str, Tensor] = dict(draws)

    @property
    def is_linear(self) -> bool:
        """Whether the others' logits are scale · cos, and no row statistic reads the cosines."""
        return not (self.loss.moves_others or self.loss.has_row_statistics)

    @property
    def has_row_statistics(self) -> bool:
        """Whether something is reduced over the rows of the cosines before there are logits."""
        return self.loss.has_row_statistics

    @property
    def kernel(self) -> str:
        """The function of losses/kernel_logits.py that makes logits of the products."""
        return "linear" if self.is_linear else self.loss.kernel

    @property
    def kernel_statistics(self) -> str | None:
        """The function of losses/kernel_logits.py that returns the row statistics."""
        return self.loss.kernel_statistics

    @property
    def normalizes(self) -> bool:
        """Whether the loss compares directions, not vectors."""
        return self.loss.normalize

    @property
    def scale(self) -> float:
        """The scale of the logits."""
        return self.loss.scale

    @property
    def is_bounded(self) -> bool:
        """Whether exp of a logit of another class needs no peak taken off: |logit| <= MAX_SCALE."""
        return self.is_linear and self.normalizes and self.scale <= MAX_SCALE

    @property
    def product_scale(self) -> float:
        """What `stream` multiplies the embeddings by; with a linear loss its products are then logits."""
        return self.loss.scale if self.is_linear else 1.0

    def directions(self, vectors: Tensor) -> Tensor:
        """The vectors divided by their lengths, if the loss normalises; else as they are."""
        return normalise(vectors) if self.loss.normalize else vectors

    def largest_cosine(self, products: Tensor, norms: Tensor, centres: Tensor) -> Tensor:
        """`(b,)` from what the loss calls cosines `(b, chunk)`, which may be inner products."""
        if not self.loss.normalize:
            products = products * inverse_norm(centres).T / norms.clamp_min(MIN_NORM)[:, None]
        return products.amax(1) if products.shape[1] else norms.new_full(norms.shape, -1)

    def update_state(self, own_cos: Tensor, norms: Tensor) -> None:
        """Move the running statistics of the loss on, if this step is one that does.

        Raises:
            ValueError: the scale of a linear loss is another one then, and logits were made with this one.
        """
        if not self.updates_state:
            return
        scale = self.scale
        self.loss.update_state(own_cos.detach(), norms.detach())
        if self.is_linear and self.scale != scale:
            name = type(self.loss).__name__
            raise ValueError(f"{name}.update_state changed the scale: set moves_others = True")

    def reduce_statistics(
        self, blocks: Iterator[tuple[slice, int, Tensor]], own_cos: Tensor, norms: Tensor, own: Tensor
    ) -> None:
        """Reduce the row statistics of the loss over the other classes of all ranks.

        Args:
            blocks: `(rows, start, cosines (b, chunk))`: which samples, with the classes from `start` on.
            own: `(B,)`, see `Shard`.
        """
        if not self.loss.has_row_statistics:
            return
        empty = own_cos.new_zeros(len(own_cos), 0)  # tells names and kinds to a rank without classes
        terms = self.loss.row_statistics(empty, own_cos[:, None], norms[:, None])
        kinds = {name: kind for name, (_, kind) in terms.items()}
        reduced = {name: torch.full_like(own_cos, NEUTRAL[kind]) for name, kind in kinds.items()}
        for rows, start, cos in blocks:
            terms = self.loss.row_statistics(cos, own_cos[rows, None], norms[rows, None])
            for name, (term, kind) in terms.items():
                term = term.to(own_cos.dtype, copy=True)
                fill_own(term, own[rows], start, NEUTRAL[kind])
                if kind == "sum":
                    reduced[name][rows] += term.sum(1)
                else:
                    reduced[name][rows] = torch.maximum(reduced[name][rows], term.amax(1))
        for kind, reduce in TOGETHER.items():
            if names := [name for name in kinds if kinds[name] == kind]:
                self.statistics |= zip(names, reduce(*(reduced[name] for name in names)))

    def other_logits(
        self,
        cos: Tensor,
        own_cos: Tensor,
        norms: Tensor,
        rows: slice = EVERY_SAMPLE,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Logits `(b, chunk)` of the samples `rows`.

        Args:
            cos: `(b, chunk)`, their cosines.
            own_cos, norms: `(B,)`, of all samples.
            tensors: name -> parameter or buffer that takes the place of the loss's own in this call.
        """
        statistics = {name: value[rows, None] for name, value in self.statistics.items()}
        arguments = cos, own_cos[rows, None], norms[rows, None], statistics
        if not tensors:
            return self.loss.other_logits(*arguments)
        with exchanged(self.loss, tensors):
            return self.loss.other_logits(*arguments)

    def set_statistics(self, sums: Sequence[Tensor]) -> None:
        """Reduce the row statistics that a kernel has summed over this rank's classes, `(B,)` each."""
        empty = sums[0].new_zeros(len(sums[0]), 0)
        names = self.loss.row_statistics(empty, sums[0][:, None], sums[0][:, None])
        self.statistics |= zip(names, sum_together(*sums))

    def kernel_inputs(
        self, own_cos: Tensor, norms: Tensor, tensors: Mapping[str, Tensor] | None = None
    ) -> KernelInputs:
        """What the function `kernel` gets. Arguments as of `other_logits`."""
        if self.is_linear:
            return KernelInputs()
        with exchanged(self.loss, tensors or {}):
            return self.loss.kernel_inputs(own_cos, norms, self.statistics)

    def per_sample(self, own_cos: Tensor, lse_others: Tensor, norms: Tensor) -> Tensor:
        """`(B,)`, each sample's loss."""
        own_logit = self.loss.own_logit(own_cos, norms, self.statistics)
        return self.loss.per_sample(own_logit, lse_others, norms)

    def parameters_of_others(self) -> dict[str, Tensor]:
        """The learnable parameters that may move the logits of other classes."""
        return {} if self.is_linear else dict(self.loss.named_parameters())

    def parameters_to_learn(self, saved: Sequence[Tensor], needed: Sequence[bool]) -> dict[str, Tensor]:
        """`parameters_of_others` as a backward pass has them, apart from the graph, by name.

        Args:
            saved: their values.
            needed: which of them want a gradient.
        """
        names = self.parameters_of_others()
        return {n: p.detach().requires_grad_(need) for n, p, need in zip(names, saved, needed)}

    def saved_buffers(self) -> dict[str, Tensor]:
        """Copies of the running statistics, which another forward may move on before the backward pass."""
        return {} if self.is_linear else {name: b.clone() for name, b in self.loss.named_buffers()}
