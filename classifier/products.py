"""Matrix products in narrow number formats, with the range of float16 in mind."""

import torch
from torch import Tensor

FULL_ROW = 2.0**14  # float16 counts in steps of 6e-8, and ends at 65,504: what a row of it may sum to


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b with the operands in `dtype` (float64 stays); the result in b's precision.

    An outer autocast has no say: the logits that a backward pass recomputes have to be those of the forward.
    """
    dtype = b.dtype if b.dtype == torch.float64 else dtype
    with torch.autocast(a.device.type, enabled=False):
        return (a.to(dtype) @ b.to(dtype)).to(b.dtype)


def row_sum(dtype: torch.dtype) -> float:
    """What the probabilities of a row are to sum to in this precision of the products."""
    return FULL_ROW if dtype == torch.float16 else 1.0


def full_rows(block: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | float]:
    """`(b, chunk)` of any magnitude as rows that `dtype` can hold, times a factor `(b, 1)`."""
    if dtype != torch.float16:
        return block, 1.0
    factor = block.abs().sum(1, keepdim=True).clamp_min(torch.finfo(block.dtype).tiny) / FULL_ROW
    return block / factor, factor


def short(vectors: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | float]:
    """Vectors `(n, D)` with no entry beyond ±1 where `dtype` is narrow, and what to multiply them by."""
    if dtype != torch.float16:
        return vectors, 1.0
    largest = vectors.abs().max().clamp_min(1)
    return vectors / largest, largest


def weighted_sum(block: Tensor, weights: Tensor, vectors: Tensor, dtype: torch.dtype) -> Tensor:
    """Σ_i block_ij · weight_i · vector_i, `(chunk, D)`: what the gradient of the classes is made of.

    Args:
        block: `(b, chunk)`, of rows whose magnitudes sum to `row_sum` at most.
        weights: `(b, 1)`, of any magnitude.
        vectors: `(b, D)`, of any length.
    """
    if dtype != torch.float16:
        return product(block.T, weights * vectors, dtype)
    vectors, length = short(vectors, dtype)
    weights = weights * length
    largest = weights.abs().max().clamp_min(torch.finfo(weights.dtype).tiny)
    weights = weights / largest
    mean = product(block.T.abs(), weights.abs() / len(weights), dtype).max()  # the sum itself might overflow
    excess = (mean * (len(weights) / FULL_ROW)).clamp_min(1)
    return largest * excess * product(block.T, weights / excess * vectors, dtype)
