"""Triton kernels that multiply the batch with the classes: log-sum-exp, gradient blocks, row statistics.

One program takes a tile of C classes. It reads their centres once, in float32, normalises and rounds them,
keeps them on the chip, and passes over all samples, S at a time. So the centres come from memory once, the
embeddings, a MiB or two, from the L2 cache. What a program reduces over its classes goes to a row of its
own, `(tiles, B)`, which the caller reduces in a fixed order: no atomics, two runs agree to the last bit.

Blocks in memory are `(classes, samples)` in the precision of the products. An entry is a value divided by
exp(reference) of its tile and sample, so that the largest is between 1/2 and 1 (in float16 times 2^15). A
reference is a multiple of log 2: to bring blocks of several tiles to one reference multiplies them by powers
of two, which costs them no digit.
"""

import math

import triton
import triton.language as tl

from utils import unit_vectors

MIN_NORM = tl.constexpr(unit_vectors.MIN_NORM)
INF = tl.constexpr(math.inf)
LOG2 = tl.constexpr(math.log(2))
SMALLEST = tl.constexpr(1e-35)  # 1 / it is a number too


@triton.jit
def load_centres(weight, classes, dims, num_classes, D):
    """Rows of `weight` `(n, D)` as a float32 tile `(C, dims)`, 0 beyond both ends."""
    inside = (classes < num_classes)[:, None] & (dims < D)[None, :]
    return tl.load(weight + classes[:, None] * D + dims[None, :], inside, 0.0)


@triton.jit
def inverse_norms(centres):
    """`(C, D)` -> `(C,)`: 1 / length, 0 where there is no direction; as `utils.unit_vectors.inverse_norm`."""
    length = tl.sqrt(tl.sum(centres * centres, 1))
    has_direction = (length > MIN_NORM) & (length < INF)
    return tl.where(has_direction, 1.0 / tl.maximum(length, MIN_NORM), 0.0)


@triton.jit
def load_directions(weight, classes, dims, num_classes, D, NORMALIZE: tl.constexpr):
    """A tile of centres as the loss compares them, and 1 / length of each."""
    centres = load_centres(weight, classes, dims, num_classes, D)
    inverse = inverse_norms(centres)
    if NORMALIZE:
        centres = centres * inverse[:, None]
    return centres, inverse


@triton.jit
def load_samples(left, samples, dims, num_samples, D):
    """Rows of `left` `(B, D)`, transposed: a tile `(dims, S)`, 0 beyond both ends."""
    inside = (samples < num_samples)[None, :] & (dims < D)[:, None]
    return tl.load(left + samples[None, :] * D + dims[:, None], inside, 0.0)


@triton.jit
def rounded_up(value):
    """log of the next power of two: (log of a positive number) -> a multiple of log 2; -inf stays."""
    return tl.where(value == -INF, -INF, tl.ceil(value / LOG2) * LOG2)


@triton.jit
def load_tile(left, weight, num_classes, D, NORMALIZE: tl.constexpr, C: tl.constexpr, DP: tl.constexpr):
    """Of this program: tile, classes, which there are, dims, rounded directions, 1 / length of each."""
    tile = tl.program_id(0).to(tl.int64)
    classes = tile * C + tl.arange(0, C)
    dims = tl.arange(0, DP)
    directions, inverse_norm = load_directions(weight, classes, dims, num_classes, D, NORMALIZE)
    return tile, classes, classes < num_classes, dims, directions.to(left.dtype.element_ty), inverse_norm


@triton.jit
def multiply(
    left, own, row, directions, classes, is_class, dims, begin, num_samples, D,
    PRECISION: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Of a slice of the batch: samples, which of them there are, products `(C, S)` in float32, the number of
    each sample that the loss knows, and which pairs are not a sample with its own class."""
    samples = begin + tl.arange(0, S)
    is_sample = samples < num_samples
    vectors = load_samples(left, samples, dims, num_samples, D)
    product = tl.dot(directions, vectors, input_precision=PRECISION)
    threshold = tl.load(row + samples, is_sample, 0.0)
    own_class = tl.load(own + samples, is_sample, -1)
    is_other = is_class[:, None] & (classes[:, None] != own_class[None, :])
    return samples, is_sample, product, threshold[None, :], is_other


@triton.jit
def lse_kernel(
    left,  # (B, D), in the precision of the products
    weight,  # (n, D), float32
    own,  # (B,), int64: the position of each sample's own class, seen from `weight`
    row,  # (B,)
    scalar,  # (1,)
    blocks,  # (n, stride), out where KEEP: exp(logit − reference) of the first num_kept samples
    inverse,  # (n,), out
    reference,  # (tiles, B), out
    total,  # (tiles, B), out: Σ exp(logit − reference) over the other classes of a tile
    largest,  # (tiles, B), out where LARGEST: the largest product with any class, divided by its length
    scale,
    a,
    b,
    num_classes,
    num_samples,
    D,
    num_kept,
    stride,
    LOGIT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    KEEP: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK_SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    DP: tl.constexpr,
):
    """The product of all samples with a tile of classes, and what log-sum-exp needs of it."""
    tile, classes, is_class, dims, directions, inverse_norm = load_tile(
        left, weight, num_classes, D, NORMALIZE, C, DP
    )
    tl.store(inverse + classes, inverse_norm, is_class)
    number = tl.load(scalar)
    for begin in range(0, num_samples, S):
        samples, is_sample, product, threshold, is_other = multiply(
            left, own, row, directions, classes, is_class, dims, begin, num_samples, D, PRECISION, S
        )
        if LARGEST:
            cosine = product if NORMALIZE else product * inverse_norm[:, None]
            highest = tl.max(tl.where(is_class[:, None], cosine, -INF), 0)
            tl.store(largest + tile * num_samples + samples, highest, is_sample)
        logit, _, _, _ = LOGIT(product, threshold, number, scale, a, b)
        logit = tl.where(is_other, logit, -INF)
        peak = rounded_up(tl.max(logit, 0))
        exponential = tl.exp(logit - tl.where(peak == -INF, 0.0, peak)[None, :])
        tl.store(reference + tile * num_samples + samples, peak, is_sample)
        tl.store(total + tile * num_samples + samples, tl.sum(exponential, 0), is_sample)
        if KEEP:
            place = blocks + classes[:, None] * stride + samples[None, :]
            kept = (exponential * BLOCK_SCALE).to(blocks.dtype.element_ty)
            tl.store(place, kept, is_class[:, None] & (samples < num_kept)[None, :])


@triton.jit
def gradient_kernel(
    left,  # as above, for the samples of this slice of the batch
    weight,
    own,
    row,
    scalar,
    lse,  # (B,), finite
    blocks,  # (n, stride), out: exp(logit − lse) · ∂logit/∂product, divided by exp(reference)
    reference,  # (tiles, B), out
    by_row,  # (tiles, B), out where ROW_GRADIENT: Σ exp(logit − lse) · ∂logit/∂row over a tile
    by_scalar,  # (tiles, B), out where SCALAR_GRADIENT: likewise
    scale,
    a,
    b,
    num_classes,
    num_samples,
    D,
    stride,
    LOGIT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROW_GRADIENT: tl.constexpr,
    SCALAR_GRADIENT: tl.constexpr,
    BLOCK_SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    DP: tl.constexpr,
):
    """The product again, and what each logit adds to the gradients of cosines, row numbers and scalar."""
    tile, classes, is_class, dims, directions, _ = load_tile(left, weight, num_classes, D, NORMALIZE, C, DP)
    number = tl.load(scalar)
    for begin in range(0, num_samples, S):
        samples, is_sample, product, threshold, is_other = multiply(
            left, own, row, directions, classes, is_class, dims, begin, num_samples, D, PRECISION, S
        )
        logit, slope, row_slope, scalar_slope = LOGIT(product, threshold, number, scale, a, b)
        log_sum = tl.load(lse + samples, is_sample, 0.0)
        probability = tl.exp(tl.where(is_other, logit - log_sum[None, :], -INF))
        place = tile * num_samples + samples
        if ROW_GRADIENT:
            tl.store(by_row + place, tl.sum(probability * row_slope, 0), is_sample)
        if SCALAR_GRADIENT:
            tl.store(by_scalar + place, tl.sum(probability * scalar_slope, 0), is_sample)
        gradient = probability * slope
        peak = rounded_up(tl.log(tl.maximum(tl.max(tl.abs(gradient), 0), SMALLEST)))
        tl.store(reference + place, peak, is_sample)
        gradient = gradient * tl.exp(-peak)[None, :] * BLOCK_SCALE
        tl.store(
            blocks + classes[:, None] * stride + samples[None, :],
            gradient.to(blocks.dtype.element_ty),
            is_class[:, None] & is_sample[None, :],
        )


@triton.jit
def statistics_kernel(
    left,  # as above
    weight,
    own,
    row,
    first,  # (tiles, B), out: Σ of the first statistic over the other classes of a tile
    second,  # (tiles, B), out: Σ of the second one
    num_classes,
    num_samples,
    D,
    STATISTICS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    PRECISION: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    DP: tl.constexpr,
):
    """The loss's two row statistics of all samples over the other classes of a tile."""
    tile, classes, is_class, dims, directions, _ = load_tile(left, weight, num_classes, D, NORMALIZE, C, DP)
    for begin in range(0, num_samples, S):
        samples, is_sample, product, threshold, is_other = multiply(
            left, own, row, directions, classes, is_class, dims, begin, num_samples, D, PRECISION, S
        )
        one, other = STATISTICS(product, threshold)
        place = tile * num_samples + samples
        tl.store(first + place, tl.sum(tl.where(is_other, one, 0.0), 0), is_sample)
        tl.store(second + place, tl.sum(tl.where(is_other, other, 0.0), 0), is_sample)
