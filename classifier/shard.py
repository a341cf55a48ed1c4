"""Which of a rank's classes take part in a step, and which samples of the global batch belong to them.

Shapes: B samples of the global batch, n classes of this rank that take part, k samples whose own class is
one of this rank's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.distributed import SumOverShards


@dataclass(frozen=True)
class Shard:
    """One step's view of the classes of this rank.

    Attributes:
        rows: `(k,)`, which samples of the global batch have their own class here.
        columns: `(k,)`, the position of that class among the n.
        own: `(B,)`, the same as one vector: the position of each sample's own class, -1 on other ranks.
        sampled: `(n,)`, local ids of the sampled classes, ascending; None: all of this rank's.
        frozen: whether per-class tensors get no gradient in this step.
    """

    rows: Tensor
    columns: Tensor
    own: Tensor
    sampled: Tensor | None
    frozen: bool

    @classmethod
    def of_batch(
        cls,
        labels: Tensor,
        classes: range,
        device: torch.device,
        sample: Callable[[Tensor, int], Tensor] | None = None,
        frozen: bool = False,
    ) -> "Shard":
        """The view of a global batch.

        Args:
            labels: `(B,)`, on the CPU, so that counting the own classes waits for no GPU.
            classes: the ids of this rank's classes.
            device: of the engine.
            sample: sample(local ids of the own classes `(k,)`, number of distinct ones) returns the local ids
                that take part, ascending; None: all take part.
        """
        local = labels - classes.start
        rows = ((local >= 0) & (local < len(classes))).nonzero().flatten()
        columns = local[rows]
        num_own = len(columns.unique())
        rows, columns = (ids.to(device, non_blocking=True) for ids in (rows, columns))
        sampled = None
        if sample is not None:
            sampled = sample(columns, num_own)
            columns = torch.searchsorted(sampled, columns)
        own = torch.full((len(labels),), -1, device=device).index_copy(0, rows, columns)
        return cls(rows, columns, own, sampled, frozen)

    @property
    def classes(self) -> Tensor:
        """`(k,)`, the local ids of the samples' classes, whether classes are sampled or not."""
        return self.columns if self.sampled is None else self.sampled[self.columns]

    def active_rows(self, table: Tensor) -> Tensor:
        """The rows `(n, ...)` of a per-class tensor of this rank that take part in this step."""
        table = table.detach() if self.frozen else table
        return table if self.sampled is None else SampleRows.apply(table, self.sampled)

    def own_rows(self, table: Tensor) -> Tensor:
        """`(B, D)`: the row of each sample's own class in a per-class tensor, whichever rank holds it."""
        return self.gather_own(self.active_rows(table))

    def to_batch(self, values: Tensor) -> Tensor:
        """`(k, ...)` for the samples whose class is here -> `(B, ...)`, 0 for the others."""
        return values.new_zeros(len(self.own), *values.shape[1:]).index_copy(0, self.rows, values)

    def gather_own(self, table: Tensor) -> Tensor:
        """`(n, D)`, active rows -> `(B, D)`: the row of each sample's own class, whichever rank holds it."""
        return SumOverShards.apply(self.to_batch(table[self.columns]))

    def scatter_own(self, table: Tensor, rows: Tensor, where: Tensor | None = None) -> None:
        """Put `(B, D)`, equal for samples of one class, back into the whole per-class tensor, in place.

        Args:
            where: a number on the device; 0: nothing changes, and nobody has waited to know it. None: put.
        """
        rows = rows[self.rows]
        if where is not None:
            rows = torch.where(where > 0, rows, table[self.classes])
        table.index_copy_(0, self.classes, rows)


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
        block: `(b, chunk)`, over the classes start … start + chunk − 1 of this shard.
        own: `(b,)`, the position of each sample's own class in the shard, -1 where another rank holds it.
    """
    column = own - start
    inside = (column >= 0) & (column < block.shape[1])
    column = column.clamp(0, block.shape[1] - 1)[:, None]
    block.scatter_(1, column, torch.where(inside[:, None], value, block.gather(1, column)))
