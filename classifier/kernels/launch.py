"""The GPU kernels as calls on a span of classes.

Shapes: n classes of the span, b samples, D the embedding size.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from classifier.kernels.gradients import centres_kernel, embeddings_kernel
from classifier.kernels.products import gradient_kernel, lse_kernel, statistics_kernel
from classifier.kernels.tiles import Tiles, padded
from classifier.step import Step
from losses import kernel_logits
from losses.base import KernelInputs

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
FLOAT16_SCALE = 2.0**15  # float16 ends at 65,504, and has all its digits down to 6e-5


class Classes(NamedTuple):
    """A span of classes.

    Attributes:
        weight: `(n, D)`, raw centres.
        inverse: `(n,)`, 1 / length of each; the first kernel of a step writes it.
    """

    weight: Tensor
    inverse: Tensor


class Samples(NamedTuple):
    """Some of the samples, as a span sees them.

    Attributes:
        left: `(b, D)`, embeddings in the precision of the products.
        own: `(b,)`, the position of each sample's own class in the span; out of it where it is elsewhere.
        inputs: of the loss, with a row `(b,)` and a scalar, whether its function reads them or not.
    """

    left: Tensor
    own: Tensor
    inputs: KernelInputs


class Blocks(NamedTuple):
    """Values of a span in memory; see `products.py`.

    Attributes:
        values: `(n, b)`, rows of any stride, in the precision of the products.
        reference: `(tiles, b)`, float32.
    """

    values: Tensor
    reference: Tensor


class Scales(NamedTuple):
    """What the references of b samples are measured against, `(b,)` each.

    Attributes:
        top: the largest reference of each sample.
        cutoff: where gradients are filtered, a reference below it leaves nothing that counts.
    """

    top: Tensor
    cutoff: Tensor


class Kernels:
    """The kernels for the loss and the precision of a step, with these tiles."""

    def __init__(self, step: Step, tiles: Tiles):
        self.loss, self.dtype, self.tiles = step.loss, step.dtype, tiles
        self.filters = step.filter_gradients
        self.logit = getattr(kernel_logits, step.loss.kernel)
        self.block_scale = FLOAT16_SCALE if step.dtype == torch.float16 else 1.0
        full = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
        self.common = dict(
            NORMALIZE=step.loss.normalizes,
            PRECISION=full if step.dtype == torch.float32 else "tf32",  # the latter has no effect
            C=tiles.classes,
        )

    def log_sum(
        self, classes: Classes, samples: Samples, kept: Tensor | None, needs_largest: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`(tiles, b)` each: reference, Σ exp(logit − reference) over the other classes, largest cosine.

        Args:
            kept: `(n, k)`, takes exp(logit − reference) of the first k samples; None: they are not kept.
        """
        reference, total = self._by_tile(classes, samples), self._by_tile(classes, samples)
        largest = self._by_tile(classes, samples) if needs_largest else reference
        blocks = reference if kept is None else kept
        lse_kernel[(len(reference),)](
            *self._operands(classes, samples),
            blocks,
            classes.inverse,
            reference,
            total,
            largest,
            *map(float, samples.inputs.constants),
            *self._sizes(classes, samples),
            blocks.shape[1],
            blocks.stride(0),
            LOGIT=self.logit,
            KEEP=kept is not None,
            LARGEST=needs_largest,
            BLOCK_SCALE=self.block_scale,
            **self._options(classes),
        )
        return reference, total, largest

    def statistics(self, classes: Classes, samples: Samples) -> tuple[Tensor, Tensor]:
        """`(tiles, b)` each: the two row statistics of the loss, summed over the other classes of a tile."""
        first, second = self._by_tile(classes, samples), self._by_tile(classes, samples)
        statistics_kernel[(len(first),)](
            *self._operands(classes, samples)[:4],
            first,
            second,
            *self._sizes(classes, samples),
            STATISTICS=getattr(kernel_logits, self.loss.kernel_statistics),
            **self._options(classes),
        )
        return first, second

    def gradient_blocks(
        self, classes: Classes, samples: Samples, lse: Tensor, values: Tensor
    ) -> tuple[Blocks, Tensor, Tensor]:
        """The blocks p · ∂z/∂product, and Σ_j p · ∂z/∂row, Σ_j p · ∂z/∂scalar by tile, `(tiles, b)`.

        Args:
            lse: `(b,)`, finite: p = exp(z − lse).
            values: `(n, b)`, memory for the blocks.
        """
        reference, by_row, by_scalar = (self._by_tile(classes, samples) for _ in range(3))
        inputs = samples.inputs
        gradient_kernel[(len(reference),)](
            *self._operands(classes, samples),
            lse,
            values,
            reference,
            by_row,
            by_scalar,
            *map(float, inputs.constants),
            *self._sizes(classes, samples),
            values.stride(0),
            LOGIT=self.logit,
            ROW_GRADIENT=inputs.row.requires_grad,
            SCALAR_GRADIENT=inputs.scalar.requires_grad,
            BLOCK_SCALE=self.block_scale,
            **self._options(classes),
        )
        return Blocks(values, reference), by_row, by_scalar

    def add_to_embeddings(
        self, classes: Classes, blocks: Blocks, scales: Scales, factor: Tensor, partial: Tensor
    ) -> None:
        """partial `(slices, b, D)` += factor_i · Σ_j block_ij · direction_j, each slice over its classes.

        Args:
            factor: `(b,)`.
        """
        tiles, (num_tiles, num_samples), dims = self.tiles, blocks.reference.shape, partial.shape[2]
        grid = triton.cdiv(num_samples, tiles.rows), triton.cdiv(dims, tiles.dims), len(partial)
        embeddings_kernel[grid](
            *blocks,
            scales.top,
            factor,
            scales.cutoff,
            *classes,
            partial,
            len(classes.weight),
            num_samples,
            dims,
            num_tiles,
            triton.cdiv(num_tiles, len(partial)),
            blocks.values.stride(0),
            partial.stride(0),
            FILTER=self.filters,
            DTYPE=DTYPES[self.dtype],
            S=tiles.rows,
            DB=tiles.dims,
            num_warps=tiles.row_warps,
            num_stages=tiles.row_stages,
            **self.common,
        )

    def write_centres(
        self, classes: Classes, parts: list[Blocks], scales: Scales, right: Tensor, out: Tensor
    ) -> None:
        """out `(n, D)` = Σ_i block_ij · right_i, through the normalisation of the centres.

        Args:
            parts: one or two slices of the B samples; the memory of the first may be that of `out`.
            right: `(B, D)`, float32, of any magnitude.
        """
        largest = right.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
        first, second = parts[0], parts[-1]
        centres_kernel[(len(first.reference),)](
            *first,
            *second,
            *scales,
            (right / largest).to(self.dtype),
            largest / self.block_scale,
            *classes,
            out,
            len(classes.weight),
            len(right),
            right.shape[1],
            first.reference.shape[1],
            first.values.stride(0),
            second.values.stride(0),
            FILTER=self.filters,
            SHIFT=self.dtype == torch.float16,
            **self._options(classes),
        )

    def _by_tile(self, classes: Classes, samples: Samples) -> Tensor:
        return classes.weight.new_empty(
            triton.cdiv(len(classes.weight), self.tiles.classes), len(samples.own)
        )

    @staticmethod
    def _operands(classes: Classes, samples: Samples) -> tuple:
        return samples.left, classes.weight, samples.own, samples.inputs.row, samples.inputs.scalar

    @staticmethod
    def _sizes(classes: Classes, samples: Samples) -> tuple[int, int, int]:
        return len(classes.weight), len(samples.own), classes.weight.shape[1]

    def _options(self, classes: Classes) -> dict:
        tiles = self.tiles
        widths = dict(S=tiles.samples, DP=padded(classes.weight.shape[1]))
        return {**self.common, **widths, "num_warps": tiles.warps, "num_stages": tiles.stages}
