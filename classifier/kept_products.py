"""Products of the batch with the classes that `stream` keeps from one pass over the classes to the next.

The gradient of the centres needs memory `(n, D)` that is unused until the backward pass writes it. Until then
`stream` keeps products there: a row of D float32 numbers holds the products of one class with D samples, in
half precision with 2·D. The samples whose products fit make one slice of the batch, the others a second one,
whose products each pass computes anew.
"""

import math

import torch
from torch import Tensor

from classifier.products import product, row_scale
from classifier.shard import fill_own

READ_AHEAD = 32  # columns


class BatchSlice:
    """b consecutive samples of the batch, and their products with each class.

    With memory, a later pass finds the products as the first one left them: as they were or, after `keep`,
    as exp(product − offset).

    Args:
        rows: which samples.
        left: `(b, D)`, their embeddings, times the scale where the loss is linear.
        kept: `(n, b)`, memory for the products with all n classes, in their precision; None: none.
    """

    def __init__(self, rows: slice, left: Tensor, kept: Tensor | None, dtype: torch.dtype):
        self.rows, self.left, self.kept, self.dtype = rows, left, kept, dtype
        self.is_made: set[int] = set()  # starts of the chunks whose products are in `kept`
        self.offsets: dict[int, Tensor] = {}  # by start of the chunk, `(b,)`

    def products(self, start: int, directions: Tensor) -> Tensor:
        """`(b, chunk)`, with the classes from `start` on.

        In full precision it is a view of the kept memory: who writes to it changes what later passes find.
        """
        if self.kept is None:
            return product(directions, self.left.T, self.dtype).T
        kept = self.kept[start : start + len(directions)]
        if start not in self.is_made:
            self.is_made.add(start)
            with torch.autocast(kept.device.type, enabled=False):
                torch.mm(directions.to(kept.dtype), self.left.T.to(kept.dtype), out=kept)
        return kept.to(self.left.dtype).T

    def keep(self, start: int, exponentials: Tensor, peak: Tensor, total: Tensor) -> None:
        """Let exp(product − peak) take the place of the products.

        Args:
            exponentials: `(b, chunk)`; in full precision they have been computed in the products' place.
            peak: `(b,)`.
            total: `(b,)`, sum of the exponentials so far. Half precision keeps the exponentials divided by
                it: undivided, a row could sum to the number of classes, and overflow.
        """
        if self.kept is None:
            return
        self.offsets[start] = peak.clone()
        if self.kept.dtype != exponentials.dtype:
            share = total.clamp_min(torch.finfo(total.dtype).tiny) / row_scale(self.dtype)
            self.offsets[start] = peak + share.log()
            torch.div(exponentials.T, share, out=self.kept[start : start + exponentials.shape[1]])

    def probabilities(
        self, start: int, directions: Tensor, lse: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """exp(product − lse) as block `(b, chunk)` times factor `(b, 1)`; 0 for the own classes.

        Args:
            lse: `(b,)`.
            own: `(b,)`, the position of each sample's own class in the shard, or -1.
        """
        if start in self.offsets:
            kept = self.kept[start : start + len(directions)]
            return kept.T, (self.offsets[start] - lse).exp()[:, None]
        offset = lse - math.log(row_scale(self.dtype))
        block = self.products(start, directions).sub_(offset[:, None]).exp_()
        fill_own(block, own, start, 0.0)
        return block, (offset - lse).exp()[:, None]


def slices_of(left: Tensor, workspace: Tensor | None, dtype: torch.dtype) -> list[BatchSlice]:
    """The batch as slices: the samples whose products the workspace can hold, and the others.

    Args:
        left: `(B, D)`, of all samples.
        workspace: `(n, D)`, memory to keep products in, a row for each class; None: none.
        dtype: of the products.
    """
    if workspace is None:
        return [BatchSlice(slice(0, len(left)), left, None, dtype)]
    kept = workspace if workspace.dtype == torch.float64 else workspace.view(dtype)
    width = min(len(left), kept.shape[1])
    if not kept.is_cuda:
        # A product of the CPU in half precision reads a row in steps of several columns, beyond its end too,
        # and multiplies what it finds there by 0. That is NaN where the unwritten memory holds NaN or inf.
        kept[:, width : width + READ_AHEAD].zero_()
    slices = [BatchSlice(slice(0, width), left[:width], kept[:, :width], dtype)]
    if width < len(left):
        slices.append(BatchSlice(slice(width, len(left)), left[width:], None, dtype))
    return slices
