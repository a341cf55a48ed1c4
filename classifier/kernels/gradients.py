"""Triton kernels that turn gradient blocks into the gradients of embeddings and centres.

A block `(classes, samples)` is what `products.py` has left in memory, kept from the forward pass or made
anew, whichever loss it is of. No two programs add into the same memory: results are equal to the last bit
from run to run.
"""

import triton
import triton.language as tl

from classifier.kernels.products import INF, load_centres

LOWEST = tl.constexpr(-1e30)  # below every reference but -inf, and finite: -inf − LOWEST is -inf


@triton.jit
def embeddings_kernel(
    blocks,  # (n, stride), values divided by exp(reference)
    reference,  # (tiles, B)
    top,  # (B,): the largest reference of a sample
    factor,  # (B,): of the result
    cutoff,  # (B,), where FILTER: a reference below it leaves nothing that counts
    weight,  # (n, D), float32
    inverse,  # (n,): 1 / length of each centre
    partial,  # (slices, B, D), float32, in and out
    num_classes,
    num_samples,
    D,
    num_tiles,
    tiles_per_slice,
    stride,
    partial_stride,
    NORMALIZE: tl.constexpr,
    FILTER: tl.constexpr,
    DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    DB: tl.constexpr,
):
    """partial += factor · Σ_j block_ij · direction_j over the tiles of a slice; a program: (S, DB) of it."""
    samples = tl.program_id(0) * S + tl.arange(0, S)
    dims = tl.program_id(1) * DB + tl.arange(0, DB)
    part = tl.program_id(2)
    is_sample = samples < num_samples
    highest = tl.load(top + samples, is_sample, 0.0)
    lowest = tl.load(cutoff + samples, is_sample, 0.0)
    total = tl.zeros((S, DB), tl.float32)
    for tile in range(part * tiles_per_slice, min((part + 1) * tiles_per_slice, num_tiles)):
        lower = tl.load(reference + tile * num_samples + samples, is_sample, -INF)
        counts = True
        if FILTER:
            counts = tl.max((lower > lowest).to(tl.int32), 0) > 0
        if counts:
            classes = (tile * C + tl.arange(0, C)).to(tl.int64)
            is_class = classes < num_classes
            inside = is_class[:, None] & is_sample[None, :]
            block = tl.load(blocks + classes[:, None] * stride + samples[None, :], inside, 0.0)
            block = (block * tl.exp(lower - highest)[None, :]).to(DTYPE)
            directions = load_centres(weight, classes, dims, num_classes, D)
            if NORMALIZE:
                directions = directions * tl.load(inverse + classes, is_class, 0.0)[:, None]
            total = tl.dot(tl.trans(block), directions.to(DTYPE), total, input_precision=PRECISION)
    total *= tl.load(factor + samples, is_sample, 0.0)[:, None]
    place = partial + part.to(tl.int64) * partial_stride + samples[:, None] * D + dims[None, :]
    inside = is_sample[:, None] & (dims < D)[None, :]
    tl.store(place, tl.load(place, inside, 0.0) + total, inside)


@triton.jit
def largest_shift(reference, top, tile, num_samples, S: tl.constexpr):
    """The largest reference − top of a tile, a finite number."""
    highest = tl.full((S,), LOWEST, tl.float32)
    for begin in range(0, num_samples, S):
        samples = begin + tl.arange(0, S)
        is_sample = samples < num_samples
        value = tl.load(reference + tile * num_samples + samples, is_sample, -INF)
        highest = tl.maximum(highest, value - tl.load(top + samples, is_sample, 0.0))
    return tl.max(highest, 0)


@triton.jit
def weighted_rows(
    total,  # (C, DP)
    blocks,
    reference,
    top,
    cutoff,
    right,
    classes,
    tile,
    shift,
    num_classes,
    num_samples,
    D,
    stride,
    FILTER: tl.constexpr,
    PRECISION: tl.constexpr,
    S: tl.constexpr,
    DP: tl.constexpr,
):
    """total + Σ_i block_ij · right_i over the samples of one slice of the batch."""
    dims = tl.arange(0, DP)
    for begin in range(0, num_samples, S):
        samples = begin + tl.arange(0, S)
        is_sample = samples < num_samples
        lower = tl.load(reference + tile * num_samples + samples, is_sample, -INF)
        counts = True
        if FILTER:
            counts = tl.max((lower > tl.load(cutoff + samples, is_sample, 0.0)).to(tl.int32), 0) > 0
        if counts:
            factor = tl.exp(lower - tl.load(top + samples, is_sample, 0.0) - shift)
            inside = (classes < num_classes)[:, None] & is_sample[None, :]
            block = tl.load(blocks + classes[:, None] * stride + samples[None, :], inside, 0.0)
            block = (block * factor[None, :]).to(right.dtype.element_ty)
            inside = is_sample[:, None] & (dims < D)[None, :]
            vectors = tl.load(right + samples[:, None] * D + dims[None, :], inside, 0.0)
            total = tl.dot(block, vectors, total, input_precision=PRECISION)
    return total


@triton.jit
def centres_kernel(
    kept,  # (n, kept_stride), blocks of the first num_kept samples; its memory may be that of `out`
    kept_reference,  # (tiles, num_kept)
    fresh,  # (n, fresh_stride), blocks of the other samples
    fresh_reference,  # (tiles, B − num_kept)
    top,  # (B,): the largest reference of a sample
    cutoff,  # (B,), where FILTER: a reference below it leaves nothing that counts
    right,  # (B, D): what the blocks are multiplied with, in the precision of the products
    factor,  # (1,): of the result
    weight,  # (n, D), float32
    inverse,  # (n,): 1 / length of each centre
    out,  # (n, D), float32
    num_classes,
    num_samples,
    D,
    num_kept,
    kept_stride,
    fresh_stride,
    NORMALIZE: tl.constexpr,
    FILTER: tl.constexpr,
    SHIFT: tl.constexpr,
    PRECISION: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    DP: tl.constexpr,
):
    """The gradient of a tile of centres, through their normalisation; a program has whole rows of it."""
    tile = tl.program_id(0).to(tl.int64)
    classes = tile * C + tl.arange(0, C)
    num_fresh = num_samples - num_kept
    shift = 0.0
    if SHIFT:  # float16 has few powers of two: start from those that this tile needs
        shift = tl.maximum(
            largest_shift(kept_reference, top, tile, num_kept, S),
            largest_shift(fresh_reference, top + num_kept, tile, num_fresh, S),
        )
    total = tl.zeros((C, DP), tl.float32)
    total = weighted_rows(
        total, kept, kept_reference, top, cutoff, right, classes, tile, shift,
        num_classes, num_kept, D, kept_stride, FILTER, PRECISION, S, DP,
    )  # fmt: skip
    total = weighted_rows(
        total, fresh, fresh_reference, top + num_kept, cutoff + num_kept, right + num_kept * D,
        classes, tile, shift, num_classes, num_fresh, D, fresh_stride, FILTER, PRECISION, S, DP,
    )  # fmt: skip
    total *= tl.load(factor)
    if SHIFT:
        total *= tl.exp(shift)
    dims = tl.arange(0, DP)
    is_class = classes < num_classes
    if NORMALIZE:
        inverse_norm = tl.load(inverse + classes, is_class, 0.0)[:, None]
        directions = load_centres(weight, classes, dims, num_classes, D) * inverse_norm
        along = tl.sum(total * directions, 1)[:, None]
        total = (total - along * directions) * inverse_norm
    tl.debug_barrier()  # no thread writes before all have read the blocks that lie there
    inside = is_class[:, None] & (dims < D)[None, :]
    tl.store(out + classes[:, None] * D + dims[None, :], total, inside)
