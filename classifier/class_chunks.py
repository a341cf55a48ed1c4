"""The classes of a rank, a chunk at a time, as often as a step passes over them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from classifier.products import scaled_to_one
from classifier.step import Step
from utils.unit_vectors import inverse_norm


class Chunk(NamedTuple):
    """Consecutive classes.

    Attributes:
        rows: which of the n.
        centres: `(chunk, D)`, raw.
        inverse: `(chunk, 1)`, 1 / length of each; None where the loss does not normalise.
        directions: `(chunk, D)`, what is compared; the next chunk takes its memory over.
    """

    rows: slice
    centres: Tensor
    inverse: Tensor | None
    directions: Tensor

    @property
    def start(self) -> int:
        """The first class."""
        return self.rows.start

    def operand(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | float]:
        """The directions as a product in `dtype` can hold them, and what to multiply the result by."""
        return scaled_to_one(self.directions, dtype) if self.inverse is None else (self.directions, 1.0)


class ClassChunks:
    """Passes over the n classes of a rank; the first one computes 1 / length of each centre for all.

    Args:
        weight: `(n, D)`, the centres; only its shape and type are kept.
    """

    def __init__(self, weight: Tensor, step: Step):
        self.size = step.chunk_size
        self.inverse = weight.new_empty(len(weight), 1) if step.loss.normalizes else None
        self.is_measured: set[int] = set()  # starts of the chunks whose `inverse` is there

    def walk(self, weight: Tensor) -> Iterator[Chunk]:
        """Consecutive chunks of these centres `(n, D)`, the same ones in each pass."""
        memory = None if self.inverse is None else torch.empty_like(weight[: self.size])
        for start in range(0, len(weight), self.size):
            rows = slice(start, min(start + self.size, len(weight)))
            centres = weight[rows]
            if memory is None:
                yield Chunk(rows, centres, None, centres)
                continue
            inverse = self.inverse[rows]
            if start not in self.is_measured:
                self.is_measured.add(start)
                inverse.copy_(inverse_norm(centres))
            yield Chunk(rows, centres, inverse, torch.mul(centres, inverse, out=memory[: len(centres)]))
