"""The kernels as calls on tensors in channels_last, and how much of a tensor a program of them holds.

Shapes: x `(N, C, H, W)`, in memory a matrix of R = N · H · W rows of C numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from backbones.kernels.normalise import input_gradient_kernel, normalise_kernel
from backbones.kernels.statistics import combine_kernel, moments_kernel, sums_kernel


@dataclass(frozen=True)
class Tiles:
    """Sizes are powers of two.

    Attributes:
        numbers: of a tile.
        channels: of a tile, at most; the rest is rows.
        programs: that sum side by side, over all channels, at most. A fixed number, so that every card sums
            in the same order.
        combined: channels of a program that combines what these have left.
        warps: of every kernel.
    """

    numbers: int = 4096
    channels: int = 64
    programs: int = 512
    combined: int = 8
    warps: int = 8


# Chosen so that a program of every kernel keeps its numbers in registers, by what the compiler reports, and
# two or more fit on a multiprocessor. Not timed yet; `benchmarks/batch_norm.py --tiles` measures others.
ON_GPU = Tiles()
# For Triton's interpreter, in which each program takes 10 ms: few of them.
ON_CPU = Tiles(numbers=1 << 18, channels=1024, programs=2, combined=512)


class Running(NamedTuple):
    """Running statistics of `nn.BatchNorm2d`, which the forward pass moves on."""

    mean: Tensor
    var: Tensor
    num_batches: Tensor


class Vectors(NamedTuple):
    """What a number of x is computed with, `(C,)` each, float32. Without PReLU `slope` is not read."""

    mean: Tensor
    inverse_std: Tensor
    weight: Tensor
    bias: Tensor
    slope: Tensor


class Kernels:
    """The kernels for tensors of one shape."""

    def __init__(self, x: Tensor, has_prelu: bool, tiles: Tiles | None = None):
        tiles = tiles or (ON_CPU if x.device.type == "cpu" else ON_GPU)
        self.tiles, self.has_prelu = tiles, has_prelu
        self.num_channels = x.shape[1]
        self.num_rows = x.numel() // self.num_channels
        channels = min(triton.next_power_of_2(self.num_channels), tiles.channels)
        rows = tiles.numbers // channels
        self.num_tiles = triton.cdiv(self.num_rows, rows)
        self.channel_tiles = triton.cdiv(self.num_channels, channels)
        self.programs = min(max(tiles.programs // self.channel_tiles, 1), self.num_tiles)
        self.tile = dict(ROWS=rows, CHANNELS=channels, num_warps=tiles.warps)

    def statistics(
        self, x: Tensor, eps: float, running: Running | None, momentum: float
    ) -> tuple[Tensor, Tensor]:
        """Mean and 1 / sqrt(variance + eps), `(C,)` each, float32; moves the running statistics on."""
        parts = self._vectors(x, 2, self.programs)
        moments_kernel[self.programs, self.channel_tiles](
            x, *parts, self.num_rows, self.num_channels, self.num_tiles, **self.tile
        )
        mean, inverse_std = self._vectors(x, 2)
        combine_kernel[1, triton.cdiv(self.num_channels, self.tiles.combined)](
            *parts,
            mean,
            inverse_std,
            *(running or (mean, mean, mean)),
            eps,
            momentum,
            self.num_rows,
            self.num_channels,
            self.num_tiles,
            self.programs,
            UPDATE=running is not None,
            PROGRAMS=triton.next_power_of_2(self.programs),
            **(self.tile | dict(CHANNELS=self.tiles.combined)),
        )
        return mean, inverse_std

    def normalise(self, x: Tensor, shortcut: Tensor | None, vectors: Vectors) -> Tensor:
        """prelu((x − mean) · inverse_std · weight + bias) + shortcut, in the type of x."""
        y = torch.empty_like(x)
        added = x if shortcut is None else shortcut
        normalise_kernel[self.num_tiles, self.channel_tiles](
            x, added, *vectors, y, self.num_rows, self.num_channels, **self._options(shortcut)
        )
        return y

    def sums(self, x: Tensor, gradient: Tensor, vectors: Vectors) -> Tensor:
        """`(3, C)`: gradients of bias, weight and, with PReLU, slope; without it, `(2, C)`."""
        parts = self._vectors(x, 2 + self.has_prelu, self.programs)
        options = dict(PRELU=self.has_prelu, **self.tile)
        sums_kernel[self.programs, self.channel_tiles](
            x, gradient, *vectors, parts, self.num_rows, self.num_channels, self.num_tiles, **options
        )
        return parts.sum(1)

    def input_gradient(
        self, x: Tensor, gradient: Tensor, beside: Tensor | None, vectors: Vectors, sums: Tensor
    ) -> Tensor:
        """The gradient of x, plus `beside`, in the type of x.

        Args:
            sums: of `sums`.
        """
        out = torch.empty_like(x)
        added = x if beside is None else beside
        pointers = x, gradient, added, *vectors, *sums[:2], out
        input_gradient_kernel[self.num_tiles, self.channel_tiles](
            *pointers, self.num_rows, self.num_channels, **self._options(beside)
        )
        return out

    def _vectors(self, x: Tensor, *shape: int) -> Tensor:
        return x.new_empty(*shape, self.num_channels, dtype=torch.float32)

    def _options(self, added: Tensor | None) -> dict:
        return dict(PRELU=self.has_prelu, ADD=added is not None, **self.tile)
