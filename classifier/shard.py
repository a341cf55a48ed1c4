"""One step's view of the classes that a rank holds: which take part, and whose they are.

Shapes: B samples of the global batch, n classes of the shard or of one chunk of it, D the embedding size, k
the samples whose own class this rank holds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from losses.base import MarginLoss
from utils.distributed import SumOverShards, all_max, all_reduce
from utils.unit_vectors import SHORTEST, inverse_length, unit

EVERY_SAMPLE = slice(None)


class SampleRows(torch.autograd.Function):
    """weight[rows]; the gradient is sparse, so that other rows' weight and momentum can stay untouched."""

    @staticmethod
    def forward(ctx, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape
        return weight[rows]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (rows,) = ctx.saved_tensors
        # The rows are in order and differ, by construction: nothing to check, nothing to coalesce.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):
            return torch.sparse_coo_tensor(rows[None], gradient, ctx.shape, is_coalesced=True), None


def fill_own(block: Tensor, own: Tensor, start: int, value: float) -> None:
    """Set each row's own class to `value`, in place, where it lies in this chunk. Never waits for the GPU.

    Args:
        block: `(B, n)`, over the classes start … start + n − 1 of this shard.
        own: `(B,)`, each sample's own class within the shard, −1 where another rank holds it.
    """
    column = own - start
    inside = (column >= 0) & (column < block.shape[1])
    column = column.clamp(0, block.shape[1] - 1)[:, None]
    block.scatter_(1, column, torch.where(inside[:, None], value, block.gather(1, column)))


@dataclass
class Shard:
    """One step's view of this rank's (sampled) classes; what both engines work on.

    Attributes:
        rows: `(k,)`, which samples of the global batch have their own class here.
        columns: `(k,)`, where in the shard that class is.
        own: `(B,)`, the same as one vector: the own class within the shard, or -1.
        sampled: local ids of the sampled classes, ascending; None: all of this rank's.
        frozen: no per-class tensor gets a gradient.
        row: the loss's reduced row statistics, once the engine has them.
    """

    loss: MarginLoss
    dtype: torch.dtype
    chunk_size: int
    rows: Tensor
    columns: Tensor
    own: Tensor
    sampled: Tensor | None
    frozen: bool
    update_state: bool
    needs_max_cos: bool
    needs_own_centres: bool
    row: dict[str, Tensor] = field(default_factory=dict)

    def directions(self, vectors: Tensor) -> Tensor:
        return unit(vectors) if self.loss.normalize else vectors

    def spread(self, values: Tensor) -> Tensor:
        """`(k, ...)` for the samples whose class is here -> `(B, ...)`, 0 elsewhere."""
        return values.new_zeros(len(self.own), *values.shape[1:]).index_copy(0, self.rows, values)

    def part(self, table: Tensor) -> Tensor:
        """The rows of a per-class tensor of this rank that take part in this step."""
        table = table.detach() if self.frozen else table
        return table if self.sampled is None else SampleRows.apply(table, self.sampled)

    def own_rows(self, table: Tensor) -> Tensor:
        """`(n, D)`, a `part` -> `(B, D)`: the row of each sample's own class, whichever rank holds it."""
        return SumOverShards.apply(self.spread(table[self.columns]))

    def set_own_rows(self, table: Tensor, rows: Tensor) -> None:
        """Put `(B, D)`, equal for samples of one class, back into the whole per-class tensor, in place."""
        classes = self.columns if self.sampled is None else self.sampled[self.columns]
        table.index_copy_(0, classes, rows[self.rows])

    def largest_cosine(self, products: Tensor, norms: Tensor, centres: Tensor) -> Tensor:
        """`(B,)`, from what the loss calls cosines `(B, n)`, which may be inner products."""
        if not self.loss.normalize:
            products = products * inverse_length(centres).T / norms.clamp_min(SHORTEST)[:, None]
        return products.amax(1) if products.shape[1] else norms.new_full(norms.shape, -1)

    def advance(self, own_cos: Tensor, norms: Tensor) -> None:
        if self.update_state:
            self.loss.update_state(own_cos.detach(), norms.detach())

    @property
    def has_row_statistics(self) -> bool:
        return type(self.loss).row_statistics is not MarginLoss.row_statistics

    @property
    def is_linear(self) -> bool:
        """Whether the others' logits are scale · cos, and their cosines are of no further use."""
        return self.loss.linear_others and not self.has_row_statistics

    def reduce_rows(
        self, blocks: Iterator[tuple[slice, int, Tensor]], own_cos: Tensor, norms: Tensor
    ) -> None:
        """Reduce the loss's row statistics over all ranks' other classes.

        Args:
            blocks: `(rows, start, cosines (b, chunk))`: which samples, with the classes from `start` on.
        """
        if not self.has_row_statistics:
            return
        empty = own_cos.new_zeros(len(own_cos), 0)  # tells names and kinds to a rank without classes
        statistics = self.loss.row_statistics(empty, own_cos[:, None], norms[:, None])
        kinds = {name: kind for name, (_, kind) in statistics.items()}
        neutral = {"sum": 0.0, "max": -math.inf}
        self.row = {name: torch.full_like(own_cos, neutral[kind]) for name, kind in kinds.items()}
        for rows, start, cos in blocks:
            statistics = self.loss.row_statistics(cos, own_cos[rows, None], norms[rows, None])
            for name, (term, kind) in statistics.items():
                term = term.to(own_cos.dtype, copy=True)
                fill_own(term, self.own[rows], start, neutral[kind])
                if kind == "sum":
                    self.row[name][rows] += term.sum(1)
                else:
                    self.row[name][rows] = torch.maximum(self.row[name][rows], term.amax(1))
        for name, kind in kinds.items():
            (all_max if kind == "max" else all_reduce)(self.row[name])

    def other_logits(self, cos: Tensor, own_cos: Tensor, norms: Tensor, rows: slice = EVERY_SAMPLE) -> Tensor:
        """Logits `(b, chunk)` of the samples `rows`, whose cosines are given; the vectors are of all B."""
        row = {name: value[rows, None] for name, value in self.row.items()}
        return self.loss.other_logits(cos, own_cos[rows, None], norms[rows, None], row)
