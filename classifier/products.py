"""Matrix products in bf16 and fp16, arranged so that float16 neither overflows nor loses small gradients.

float16 counts in steps of 6e-8 and ends at 65,504. The rows of probabilities that the backward pass
multiplies hold one entry for each class: most are tiny, and their sum is at most 1. Multiplied by ROW_SCALE
such a row uses the whole range. This is the loss scaling of mixed precision, applied row by row. bf16 has the
range of float32 and needs none of it.
"""

import torch
from torch import Tensor

ROW_SCALE = 2.0**14  # a row of float16 may sum to this: four times below its largest number


def product(a: Tensor, b: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """a @ b with the operands in `dtype` (float64 stays); the result in b's precision, in `out` if given.

    An outer autocast has no say: the logits that a backward pass recomputes have to be those of the forward.
    """
    dtype = b.dtype if b.dtype == torch.float64 else dtype
    with torch.autocast(a.device.type, enabled=False):
        if b.dtype == dtype:
            return torch.mm(a.to(dtype), b, out=out)
        result = a.to(dtype) @ b.to(dtype)
        return result.to(b.dtype) if out is None else out.copy_(result)


def row_scale(dtype: torch.dtype) -> float:
    """What a row of probabilities sums to at most in this precision of the products."""
    return ROW_SCALE if dtype == torch.float16 else 1.0


def rescaled_rows(block: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | float]:
    """`(b, chunk)` of any magnitude as rows that `dtype` can hold, times a factor `(b, 1)`."""
    if dtype != torch.float16:
        return block, 1.0
    factor = block.abs().sum(1, keepdim=True).clamp_min(torch.finfo(block.dtype).tiny) / ROW_SCALE
    return block / factor, factor


def scaled_to_one(vectors: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | float]:
    """Vectors `(n, D)` with no entry beyond ±1 where `dtype` is float16, and what to multiply them by."""
    if dtype != torch.float16:
        return vectors, 1.0
    largest = vectors.abs().max().clamp_min(1)
    return vectors / largest, largest


def weighted_sum(
    block: Tensor, weights: Tensor, vectors: Tensor, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """Σ_i block_ij · weight_i · vector_i, `(chunk, D)`: what the gradient of the classes is made of.

    Args:
        block: `(b, chunk)`, of rows whose magnitudes sum to `row_scale` at most.
        weights: `(b, 1)`, of any magnitude.
        vectors: `(b, D)`, of any length.
        out: `(chunk, D)`, memory for the result.
    """
    if dtype != torch.float16:
        return product(block.T, weights * vectors, dtype, out)
    vectors, length = scaled_to_one(vectors, dtype)
    weights = weights * length
    largest = weights.abs().max().clamp_min(torch.finfo(weights.dtype).tiny)
    weights = weights / largest
    mean = product(block.T.abs(), weights.abs() / len(weights), dtype).max()  # the sum itself might overflow
    excess = (mean * (len(weights) / ROW_SCALE)).clamp_min(1)
    return product(block.T, weights / excess * vectors, dtype, out).mul_(largest * excess)
