"""Products of a stretch of the batch with the classes, kept from one walk over the classes to the next."""

import math

import torch
from torch import Tensor

from classifier.products import product, row_sum
from classifier.shard import fill_own


class Stretch:
    """Consecutive samples of the batch, b of them, and their products with each class.

    Where there is memory for them, a later walk finds the products as the first one left them: as they were,
    or, after `keep`, as exp(product − offset).

    Args:
        rows: which samples.
        left: `(b, D)`, their factor of the products.
        kept: `(n, b)`, memory for the products with all n classes, in their precision; None: none.
    """

    def __init__(self, rows: slice, left: Tensor, kept: Tensor | None, dtype: torch.dtype):
        self.rows, self.left, self.kept, self.dtype = rows, left, kept, dtype
        self.is_made: set[int] = set()  # starts of the chunks whose products are in `kept`
        self.offsets: dict[int, Tensor] = {}  # by start of the chunk, `(b,)`

    def products(self, start: int, directions: Tensor) -> Tensor:
        """`(b, chunk)`, with the classes from `start` on. In full precision it is the kept memory itself."""
        if self.kept is None:
            return product(directions, self.left.T, self.dtype).T
        kept = self.kept[start : start + len(directions)]
        if start not in self.is_made:
            self.is_made.add(start)
            with torch.autocast(kept.device.type, enabled=False):
                torch.mm(directions.to(kept.dtype), self.left.T.to(kept.dtype), out=kept)
        return kept.to(self.left.dtype).T

    def keep(self, start: int, exponentials: Tensor, peak: Tensor, total: Tensor) -> None:
        """exp(product − peak) takes the products' place.

        Args:
            exponentials: `(b, chunk)`; in full precision they have been computed in the products' place.
            peak: `(b,)`.
            total: `(b,)`, sum of the exponentials so far. Half precision keeps shares of it: as many ones as
                there are classes would overflow where they are summed.
        """
        if self.kept is None:
            return
        self.offsets[start] = peak
        if self.kept.dtype != exponentials.dtype:
            unit = total.clamp_min(torch.finfo(total.dtype).tiny) / row_sum(self.dtype)
            self.offsets[start] = peak + unit.log()
            torch.div(exponentials.T, unit, out=self.kept[start : start + exponentials.shape[1]])

    def probabilities(
        self, start: int, directions: Tensor, lse: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """exp(product − lse) as block `(b, chunk)` times factor `(b, 1)`; 0 for the own classes.

        Args:
            lse: `(b,)`.
            own: `(b,)`, each sample's own class within the shard, or -1.
        """
        if start in self.offsets:
            kept = self.kept[start : start + len(directions)]
            return kept.T, (self.offsets[start] - lse).exp()[:, None]
        offset = lse - math.log(row_sum(self.dtype))
        block = self.products(start, directions).sub_(offset[:, None]).exp_()
        fill_own(block, own, start, 0.0)
        return block, (offset - lse).exp()[:, None]


def split(left: Tensor, room: Tensor | None, dtype: torch.dtype) -> list[Stretch]:
    """The batch as stretches: the samples whose products `room` can hold, and the others.

    Args:
        left: `(B, D)`, of all samples.
        room: `(n, D)`, memory to keep products in, a row for each class; None: none.
        dtype: of the products.
    """
    if room is None:
        return [Stretch(slice(0, len(left)), left, None, dtype)]
    kept = room if room.dtype == torch.float64 else room.view(dtype)
    width = min(len(left), kept.shape[1])
    stretches = [Stretch(slice(0, width), left[:width], kept[:, :width], dtype)]
    if width < len(left):
        stretches.append(Stretch(slice(width, len(left)), left[width:], None, dtype))
    return stretches
