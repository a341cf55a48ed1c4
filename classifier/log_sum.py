"""The log-sum-exp over the other classes: chunk by chunk on each rank, then over all ranks.

A linear loss asks for nothing until all classes have been seen, so its own cosines travel with the sums of
the exponentials. Another loss may read them, or its running statistics, in the logits: these travel ahead.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from classifier.own_classes import OwnClasses, compare_own
from classifier.shard import fill_own
from classifier.step import Comparison, Step
from utils.distributed import max_together, sum_together


def own_before_others(embeddings: Tensor, norms: Tensor, weight: Tensor, step: Step) -> OwnClasses:
    """The own classes as the pass over the others needs them: of all ranks, or not at all if it is linear."""
    own = compare_own(embeddings, weight, step)
    return own if step.loss.is_linear else own_of_all_ranks(norms, step, *sum_together(*present(own)))


def own_of_all_ranks(norms: Tensor, step: Step, *own: Tensor) -> OwnClasses:
    """The own classes, after the loss's running statistics have moved on."""
    step.loss.update_state(own[0], norms)
    return OwnClasses(*own)


def present(tensors: tuple[Tensor | None, ...]) -> list[Tensor]:
    """Those that are there."""
    return [tensor for tensor in tensors if tensor is not None]


@dataclass
class LogSum:
    """What a rank knows of the other classes that it has seen; Σ exp(logit) is total · exp(peak).

    Attributes:
        peak: `(B,)`, the largest logit so far; or 0 where logits are bounded, whose exponentials are ordinary
            numbers: that saves two passes over each block.
        total: `(B,)`.
        max_cos: `(B,)`, the largest cosine with any class; None where nobody asks.
    """

    step: Step
    peak: Tensor
    total: Tensor
    max_cos: Tensor | None

    @classmethod
    def of_nothing(cls, norms: Tensor, step: Step) -> "LogSum":
        """No class has been seen yet; norms: `(B,)`."""
        lowest = torch.finfo(norms.dtype).min  # finite, also with no other class
        peak = torch.full_like(norms, 0.0 if step.loss.is_bounded else lowest)
        return cls(
            step,
            peak,
            torch.zeros_like(norms),
            norms.new_full(norms.shape, -1) if step.needs_max_cos else None,
        )

    def compare(self, rows: slice, products: Tensor, norms: Tensor, centres: Tensor) -> None:
        """Note the largest cosine, where it is asked for, of products `(b, chunk)`, of the samples `rows`."""
        if self.max_cos is not None:
            loss = self.step.loss
            largest = loss.largest_cosine(products, norms[rows], centres) / loss.product_scale
            self.max_cos[rows] = torch.maximum(self.max_cos[rows], largest)

    def add(self, rows: slice, start: int, logits: Tensor) -> Tensor | None:
        """Add the classes from `start` on; exp(logit − peak), 0 for the own classes, takes the logits' place.

        Args:
            logits: `(b, chunk)`, of the samples `rows`.
        Returns:
            `(b,)`, what the earlier exponentials have to be multiplied by; None: they stay.
        """
        fill_own(logits, self.step.shard.own[rows], start, -math.inf)
        if self.step.loss.is_bounded:
            self.total[rows] += logits.exp_().sum(1)
            return None
        peak = torch.maximum(self.peak[rows], logits.amax(1))
        decay = (self.peak[rows] - peak).exp()
        self.total[rows] = self.total[rows] * decay + logits.sub_(peak[:, None]).exp_().sum(1)
        self.peak[rows] = peak
        return decay

    def over_ranks(self, own: OwnClasses, norms: Tensor) -> Comparison:
        """Compare the batch with the classes of all ranks; own: what `own_before_others` returned."""
        loss = self.step.loss
        peaks, asked = [] if loss.is_bounded else [self.peak], present((self.max_cos,))
        maxima = max_together(*peaks, *asked) if peaks or asked else []
        highest = maxima[0] if peaks else torch.zeros_like(self.peak)
        total = self.total * (self.peak - highest).exp()
        if loss.is_linear:
            total, *sums = sum_together(total, *present(own))
            own = own_of_all_ranks(norms, self.step, *sums)
        else:
            (total,) = sum_together(total)
        return Comparison(own.cos, highest + total.log(), own.centres, maxima[-1] if asked else None)
