"""Triton kernels that reduce over all rows: mean and variance of each channel, and sums of the backward pass.

A tensor in channels_last is a matrix `(R, C)`: a row for each place of each image. Program p takes the tiles
p, p + programs, p + 2 · programs, ... of ROWS rows, and reduces them to a row of its own, `(programs, C)`;
these rows are combined in one order. No atomics: two runs agree to the last bit.

Means and squared distances are put together by the formulas of Chan, Golub and LeVeque ("Updating formulae
and a pairwise algorithm for computing sample variances", 1979), not from sums of squares, which cancel where
the mean is large.
"""

import triton
import triton.language as tl


@triton.jit
def first_tile(num_channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Of this program: the rows of a tile, its channels, and the offsets of its numbers from its start."""
    rows = tl.arange(0, ROWS)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return rows, channels, rows[:, None] * num_channels + channels[None, :]


@triton.jit
def start_of(tile, num_channels, ROWS: tl.constexpr):
    """Offset of a tile's first number; a tensor may have more than 2^31 of them."""
    return tl.cast(tile, tl.int64) * ROWS * num_channels


@triton.jit
def moments_kernel(
    x,  # (R, C), any floating-point type
    means,  # (programs, C), out: over the rows of a program
    squares,  # (programs, C), out: Σ (x − mean)² over them
    num_rows,
    num_channels,
    num_tiles,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One pass over x. Each number of a tile has a mean of its own, until the last tile."""
    rows, channels, offsets = first_tile(num_channels, ROWS, CHANNELS)
    is_channel = (channels < num_channels)[None, :]
    mean = tl.zeros((ROWS, CHANNELS), tl.float32)
    square = tl.zeros((ROWS, CHANNELS), tl.float32)
    count = tl.zeros((ROWS,), tl.float32)
    tiles_seen = 0.0
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        is_row = tile * ROWS + rows < num_rows
        inside = is_row[:, None] & is_channel
        values = tl.load(x + start_of(tile, num_channels, ROWS) + offsets, inside, 0.0).to(tl.float32)
        tiles_seen += 1.0
        distance = tl.where(inside, values - mean, 0.0)
        mean += distance * (1.0 / tiles_seen)  # only in the last tile are rows missing
        square += distance * (values - mean)
        count += is_row.to(tl.float32)
    weights = count[:, None]
    total = tl.sum(mean * weights, 0) / tl.sum(count, 0)
    distance = mean - total[None, :]
    place = tl.program_id(0) * num_channels + channels
    tl.store(means + place, total, channels < num_channels)
    tl.store(squares + place, tl.sum(square + weights * distance * distance, 0), channels < num_channels)


@triton.jit
def combine_kernel(
    means,  # (programs, C)
    squares,  # (programs, C)
    mean,  # (C,), out
    inverse_std,  # (C,), out: 1 / sqrt(variance + eps), of the biased variance
    running_mean,  # (C,), in and out where UPDATE
    running_var,  # (C,), likewise
    num_batches,  # (1,), int64, likewise
    eps,
    momentum,
    num_rows,
    num_channels,
    num_tiles,
    programs,
    UPDATE: tl.constexpr,
    ROWS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The statistics of all rows, and the running ones as torch keeps them; a tile has all programs."""
    program, channels, offsets = first_tile(num_channels, PROGRAMS, CHANNELS)
    is_channel = channels < num_channels
    inside = (program < programs)[:, None] & is_channel[None, :]
    part = tl.load(means + offsets, inside, 0.0)
    square = tl.load(squares + offsets, inside, 0.0)
    # Rows of each program: of its tiles, less what the very last tile lacks.
    count = tl.cdiv(num_tiles - program, programs) * ROWS
    count -= tl.where(program == (num_tiles - 1) % programs, num_tiles * ROWS - num_rows, 0)
    count = tl.where(program < programs, count, 0).to(tl.float32)[:, None]
    rows = tl.sum(count, 0)
    total = tl.sum(part * count, 0) / rows
    distance = part - total[None, :]
    square_sum = tl.sum(square + count * distance * distance, 0)
    tl.store(mean + channels, total, is_channel)
    tl.store(inverse_std + channels, 1.0 / tl.sqrt_rn(square_sum / rows + eps), is_channel)
    if UPDATE:
        before = tl.load(running_mean + channels, is_channel, 0.0)
        tl.store(running_mean + channels, before * (1.0 - momentum) + total * momentum, is_channel)
        before = tl.load(running_var + channels, is_channel, 0.0)
        unbiased = square_sum / (rows - 1.0)
        tl.store(running_var + channels, before * (1.0 - momentum) + unbiased * momentum, is_channel)
        if tl.program_id(1) == 0:
            tl.store(num_batches, tl.load(num_batches) + 1)


@triton.jit
def sums_kernel(
    x,  # (R, C)
    gradient,  # (R, C), of the result
    mean,  # (C,)
    inverse_std,  # (C,)
    weight,  # (C,)
    bias,  # (C,)
    slope,  # (C,), where PRELU
    sums,  # (3, programs, C), out: of the gradients of bias, weight and (where PRELU) slope
    num_rows,
    num_channels,
    num_tiles,
    PRELU: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One pass over x and the gradient of the result: what weights learn, and the input's gradient needs."""
    rows, channels, offsets = first_tile(num_channels, ROWS, CHANNELS)
    is_channel = channels < num_channels
    centre = tl.load(mean + channels, is_channel, 0.0)[None, :]
    inverse = tl.load(inverse_std + channels, is_channel, 0.0)
    if PRELU:
        scale = (inverse * tl.load(weight + channels, is_channel, 0.0))[None, :]
        shift = tl.load(bias + channels, is_channel, 0.0)[None, :]
        factor = tl.load(slope + channels, is_channel, 0.0)[None, :]
        by_slope = tl.zeros((ROWS, CHANNELS), tl.float32)
    by_bias = tl.zeros((ROWS, CHANNELS), tl.float32)
    by_weight = tl.zeros((ROWS, CHANNELS), tl.float32)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        inside = (tile * ROWS + rows < num_rows)[:, None] & is_channel[None, :]
        start = start_of(tile, num_channels, ROWS)
        distance = tl.load(x + start + offsets, inside, 0.0).to(tl.float32) - centre
        slant = tl.load(gradient + start + offsets, inside, 0.0).to(tl.float32)
        if PRELU:
            normalised = distance * scale + shift
            is_positive = normalised > 0
            by_slope += tl.where(is_positive, 0.0, slant * normalised)
            slant = tl.where(is_positive, slant, slant * factor)
        by_bias += slant
        by_weight += slant * distance
    programs = tl.num_programs(0)
    place = sums + tl.program_id(0) * num_channels + channels
    tl.store(place, tl.sum(by_bias, 0), is_channel)
    tl.store(place + programs * num_channels, tl.sum(by_weight, 0) * inverse, is_channel)
    if PRELU:
        tl.store(place + 2 * programs * num_channels, tl.sum(by_slope, 0), is_channel)
