"""The two passes over the classes by GPU kernels, span by span, and the memory between them.

A span is some 100,000 consecutive classes. What its tiles reduce, `(tiles, B)`, is reduced further before the
next span begins: its memory does not grow with the number of classes, and offsets inside a span stay small.

Shapes: B samples of the global batch, n classes of this rank that take part, D the embedding size.
"""

import math
from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from classifier.kernels.launch import Blocks, Classes, Kernels, Samples, Scales
from classifier.kernels.tiles import Tiles
from classifier.step import Step
from losses.base import KernelInputs

SPAN_CLASSES = 1 << 17
SCRATCH_BYTES = 64 << 20  # of a span's gradient blocks that the workspace does not hold
MIN_SPAN_TILES = 256  # fewer programs would leave a part of a GPU without work
SUMMING_PROGRAMS = 132  # about as many sum the embeddings' gradient side by side, on every card
LOWEST = -1e30  # finite, and below every reference but -inf
ALL = slice(None)


class Spans:
    """The batch against this rank's classes.

    Args:
        left: `(B, D)`, the embeddings as the products take them.
        weight: `(n, D)`.
        workspace: `(n, D)`, memory for blocks: a row of D float32 numbers holds the values of a class for D
            samples, in half precision for 2·D; None: none.
    """

    def __init__(self, left: Tensor, weight: Tensor, step: Step, workspace: Tensor | None, tiles: Tiles):
        self.left, self.weight, self.step = left, weight, step
        self.kernels = Kernels(step, tiles)
        self.rounded = left.to(step.dtype).contiguous()
        self.inverse = weight.new_empty(len(weight))  # 1 / length of each centre
        # Of p · ∂z/∂cos, as a share of the scale: sums of such numbers are about 1, in so many bits.
        slope = 1.0 if step.loss.is_linear else step.loss.scale
        self.log_threshold = math.log(torch.finfo(step.dtype).eps / 32 * slope)
        self.references: dict[int, Tensor] = {}  # of the blocks in the workspace, by start of the span
        self.set_workspace(workspace)

    def set_workspace(self, workspace: Tensor | None) -> None:
        """Take this memory; what was left in another is forgotten."""
        self.references.clear()
        self.kept = None if workspace is None else workspace.view(self.step.dtype)
        self.num_kept = 0 if workspace is None else min(len(self.left), self.kept.shape[1])

    def __iter__(self) -> Iterator[slice]:
        most = SPAN_CLASSES
        if self.num_kept < len(self.left):
            most = min(SCRATCH_BYTES // ((len(self.left) - self.num_kept) * self.step.dtype.itemsize), most)
        size = max(most // self.kernels.tiles.classes, MIN_SPAN_TILES) * self.kernels.tiles.classes
        for start in range(0, len(self.weight), size):
            yield slice(start, min(start + size, len(self.weight)))

    def statistics(self, inputs: KernelInputs) -> list[Tensor]:
        """`(B,)` each: the loss's row statistics, summed over the other classes of this rank."""
        sums = self.left.new_zeros(2, len(self.left))
        for span in self:
            by_tile = self.kernels.statistics(self._classes(span), self._samples(span, ALL, inputs))
            sums += torch.stack([terms.sum(0) for terms in by_tile])
        return list(sums)

    def log_sum(self, inputs: KernelInputs) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of this rank's classes, `(B,)` each: peak, Σ exp(logit − peak) over the others, largest product.

        A linear loss leaves its exponentials in the workspace. The last one is None where nobody asks.
        """
        peak = self.left.new_full((len(self.left),), torch.finfo(torch.float32).min)  # finite without a class
        total = torch.zeros_like(peak)
        highest = torch.full_like(peak, -torch.inf) if self.step.needs_max_cos else None
        keeps = self.step.loss.is_linear and self.num_kept > 0
        for span in self:
            kept = self.kept[span, : self.num_kept] if keeps else None
            samples = self._samples(span, ALL, inputs)
            reference, sums, largest = self.kernels.log_sum(
                self._classes(span), samples, kept, highest is not None
            )
            if keeps:
                self.references[span.start] = reference[:, : self.num_kept].contiguous()
            if highest is not None:
                highest = torch.maximum(highest, largest.amax(0))
            higher = torch.maximum(peak, reference.amax(0))
            total = total * (peak - higher).exp() + sums.mul_((reference - higher).exp()).sum(0)
            peak = higher
        return peak, total, highest

    def gradients(
        self, inputs: KernelInputs, lse: Tensor, grad_lse: Tensor, out: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of `left` `(B, D)`; Σ_j p_ij · ∂z_ij/∂row_i and Σ_j p_ij · ∂z_ij/∂scalar, `(B,)` each.

        Args:
            lse: `(B,)`, finite, over the classes of all ranks.
            grad_lse: `(B,)`.
            out: `(n, D)`, takes the gradient of the centres; it may be the workspace.
        """
        tiles, (size, dims) = self.kernels.tiles, self.left.shape
        programs = triton.cdiv(size, tiles.rows) * triton.cdiv(dims, tiles.dims)
        slices = min(SUMMING_PROGRAMS // programs, triton.cdiv(len(self.weight), tiles.classes))
        partial = self.left.new_zeros(max(slices, 1), size, dims)
        moments = self.left.new_zeros(2, size)
        for span in self:
            classes, parts, scales, factors = self._classes(span), [], [], []
            for rows in filter(self._length, (slice(0, self.num_kept), slice(self.num_kept, size))):
                blocks, offset = self._blocks(span, rows, inputs, lse, moments)
                top = blocks.reference.amax(0).clamp_min(LOWEST)
                factor = (top - offset).exp()
                scale = Scales(top, torch.zeros_like(top) + offset + self.log_threshold)
                scaled = factor / self.kernels.block_scale
                self.kernels.add_to_embeddings(classes, blocks, scale, scaled, partial[:, rows])
                parts.append(blocks)
                scales.append(scale)
                factors.append(factor)
            if out is not None:
                right = self.left * (torch.cat(factors) * grad_lse)[:, None]
                whole = Scales(*(torch.cat(vectors) for vectors in zip(*scales)))
                self.kernels.write_centres(classes, parts, whole, right, out[span])
        return partial.sum(0) * grad_lse[:, None], *moments

    def _blocks(
        self, span: slice, rows: slice, inputs: KernelInputs, lse: Tensor, moments: Tensor
    ) -> tuple[Blocks, Tensor | float]:
        """Gradient blocks, and what to subtract from their references: lse, if the forward pass left them."""
        in_workspace = rows.stop <= self.num_kept
        if in_workspace and span.start in self.references:
            return Blocks(self.kept[span, rows], self.references.pop(span.start)), lse[rows]
        if in_workspace:
            memory = self.kept[span, rows]
        else:
            memory = self.rounded.new_empty(span.stop - span.start, self._length(rows))
        samples = self._samples(span, rows, inputs)
        blocks, *by_tile = self.kernels.gradient_blocks(self._classes(span), samples, lse[rows], memory)
        for moment, terms, source in zip(moments, by_tile, samples.inputs):
            if source.requires_grad:
                moment[rows] += terms.sum(0)
        return blocks, 0.0

    def _classes(self, span: slice) -> Classes:
        return Classes(self.weight[span], self.inverse[span])

    def _samples(self, span: slice, rows: slice, inputs: KernelInputs) -> Samples:
        row = self.left.new_zeros(len(self.left)) if inputs.row is None else inputs.row
        scalar = self.left.new_zeros(()) if inputs.scalar is None else inputs.scalar
        own = self.step.shard.own[rows] - span.start
        return Samples(self.rounded[rows], own, inputs._replace(row=row[rows], scalar=scalar))

    @staticmethod
    def _length(rows: slice) -> int:
        return rows.stop - rows.start
