"""Triton kernels that write a tensor: the result of BatchNorm, and the gradient of its input.

One program takes one tile of the matrix `(R, C)` of `statistics.py`. The last tiles come first: the pass
before has read them last, so that a part of them is still in the cache.
"""

import triton
import triton.language as tl

from backbones.kernels.statistics import first_tile, start_of


@triton.jit
def tile_of_program(num_rows, num_channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Where the tile of this program starts, the offsets in it, which of them there are, and its channels."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    rows, channels, offsets = first_tile(num_channels, ROWS, CHANNELS)
    is_channel = channels < num_channels
    inside = (tile * ROWS + rows < num_rows)[:, None] & is_channel[None, :]
    return start_of(tile, num_channels, ROWS), offsets, inside, channels, is_channel


@triton.jit
def normalise_kernel(
    x,  # (R, C)
    shortcut,  # (R, C), where ADD
    mean,  # (C,)
    inverse_std,  # (C,)
    weight,  # (C,)
    bias,  # (C,)
    slope,  # (C,), where PRELU
    y,  # (R, C), out
    num_rows,
    num_channels,
    PRELU: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """y = prelu((x − mean) · inverse_std · weight + bias) + shortcut, rounded once."""
    start, offsets, inside, channels, is_channel = tile_of_program(num_rows, num_channels, ROWS, CHANNELS)
    scale = tl.load(inverse_std + channels, is_channel, 0.0) * tl.load(weight + channels, is_channel, 0.0)
    centre = tl.load(mean + channels, is_channel, 0.0)[None, :]
    values = tl.load(x + start + offsets, inside, 0.0).to(tl.float32)
    values = (values - centre) * scale[None, :] + tl.load(bias + channels, is_channel, 0.0)[None, :]
    if PRELU:
        factor = tl.load(slope + channels, is_channel, 0.0)[None, :]
        values = tl.where(values > 0, values, values * factor)
    if ADD:
        values += tl.load(shortcut + start + offsets, inside, 0.0).to(tl.float32)
    tl.store(y + start + offsets, values.to(y.dtype.element_ty), inside)


@triton.jit
def input_gradient_kernel(
    x,  # (R, C)
    gradient,  # (R, C), of the result
    beside,  # (R, C), where ADD: what x gets from elsewhere
    mean,  # (C,)
    inverse_std,  # (C,)
    weight,  # (C,)
    bias,  # (C,)
    slope,  # (C,), where PRELU
    by_bias,  # (C,): the gradient of the bias
    by_weight,  # (C,): the gradient of the weight
    out,  # (R, C), out
    num_rows,
    num_channels,
    PRELU: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = weight · inverse_std · (g − mean of g − x̂ · mean of g · x̂) + beside.

    g is the gradient before PReLU, x̂ is x less its mean, times inverse_std.
    """
    start, offsets, inside, channels, is_channel = tile_of_program(num_rows, num_channels, ROWS, CHANNELS)
    inverse = tl.load(inverse_std + channels, is_channel, 0.0)
    scale = (inverse * tl.load(weight + channels, is_channel, 0.0))[None, :]
    share = 1.0 / num_rows
    mean_gradient = (tl.load(by_bias + channels, is_channel, 0.0) * share)[None, :]
    mean_product = (tl.load(by_weight + channels, is_channel, 0.0) * share * inverse)[None, :]
    distance = tl.load(x + start + offsets, inside, 0.0).to(tl.float32)
    distance -= tl.load(mean + channels, is_channel, 0.0)[None, :]
    slant = tl.load(gradient + start + offsets, inside, 0.0).to(tl.float32)
    if PRELU:
        normalised = distance * scale + tl.load(bias + channels, is_channel, 0.0)[None, :]
        factor = tl.load(slope + channels, is_channel, 0.0)[None, :]
        slant = tl.where(normalised > 0, slant, slant * factor)
    result = (slant - mean_gradient - distance * mean_product) * scale
    if ADD:
        result += tl.load(beside + start + offsets, inside, 0.0).to(tl.float32)
    tl.store(out + start + offsets, result.to(out.dtype.element_ty), inside)
