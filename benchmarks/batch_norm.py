"""BatchNorm with PReLU or a shortcut in GPU kernels: are they right on this card, and how fast?

    python benchmarks/batch_norm.py [--precisions bf16] [--batch 128] [--shapes 64:56 128:28] [--large]
    python benchmarks/batch_norm.py --tiles               # other sizes of tiles, on the shapes given

A line of JSON for each precision, shape (channels:side) and kind: forward and backward pass of "alone" (the
start of a block, whose input goes on beside it), "prelu" and "shortcut". Results, gradients and running
statistics against float64: the largest error may be 1e-5 of the largest number, or twice that of PyTorch in
the same precision, where that is more; two runs have to agree to the last bit. `gb_per_s`: bytes that the
passes of the kernels read and write, by count, over their time. --large: a tensor whose offsets exceed 2^31.
Ends with code 1 where a row is wrong.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbones.batch_norm import batch_norm, batch_norm_and_input
from benchmarks.common import device, print_row, timed
from utils.command_line import run_script
from utils.errors import one_line
from utils.precision import PRECISIONS, autocast

PASSES = {"alone": 9, "prelu": 8, "shortcut": 9}  # over a tensor, forward and backward, by the kernels
SHAPES = ["64:112", "64:56", "128:28", "256:14", "512:7"]  # of IResNet
ALLOWED = 1e-5
TILES = [
    *(dict(numbers=n) for n in (2048, 8192)),
    *(dict(channels=c) for c in (32, 128)),
    *(dict(programs=p) for p in (256, 1024)),
    *(dict(warps=w) for w in (4, 16)),
]


class Case:
    """One BatchNorm of a kind on random numbers, as a training step runs it."""

    def __init__(self, kind: str, shape: tuple[int, int, int, int], precision: str):
        self.kind, self.precision = kind, precision
        random = torch.Generator(device()).manual_seed(1)
        self.norm, self.prelu = nn.BatchNorm2d(shape[1]).to(device()), nn.PReLU(shape[1]).to(device())
        for parameter in (self.norm.weight, self.norm.bias, self.prelu.weight):
            parameter.data.uniform_(-0.5, 1.5, generator=random)
        drawn = (torch.randn(shape, generator=random, device=device()) for _ in range(4))
        self.tensors = [t.to(PRECISIONS[precision], memory_format=torch.channels_last) for t in drawn]
        self.tensors[0] += 2

    def double(self) -> "Case":
        """The same numbers in float64."""
        self.norm, self.prelu = self.norm.double(), self.prelu.double()
        self.precision, self.tensors = "fp32", [tensor.double() for tensor in self.tensors]
        return self

    def run(self, kernels: bool) -> dict[str, Tensor]:
        """Result and gradients of a forward and a backward pass, which move the running statistics on."""
        self.norm.kernels = kernels
        x, shortcut, *upstream = self.tensors
        x, shortcut = (t.detach().requires_grad_() for t in (x, shortcut))
        learnt = dict(x=x, weight=self.norm.weight, bias=self.norm.bias)
        with autocast(device(), self.precision):
            if self.kind == "alone":
                results = batch_norm_and_input(self.norm, x)
            elif self.kind == "prelu":
                results = [batch_norm(self.norm, x, self.prelu)]
                learnt["slope"] = self.prelu.weight
            else:
                results = [batch_norm(self.norm, x, shortcut=shortcut)]
                learnt["shortcut"] = shortcut
        gradients = torch.autograd.grad(results, [*learnt.values()], upstream[: len(results)])
        return {"y": results[0].detach(), **dict(zip(learnt, gradients))}

    def outcome(self, kernels: bool) -> dict[str, Tensor]:
        """What `run` returns, and the running statistics after it."""
        return {**self.run(kernels), **{n: b.clone() for n, b in self.norm.named_buffers()}}


def largest_error(got: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Each relative to the largest number of the exact one."""
    return max(
        ((got[name].double() - value).abs().max() / value.abs().max()).item() for name, value in exact.items()
    )


def check(kind: str, shape: tuple, precision: str) -> dict:
    """The errors of kernels and PyTorch, and whether a second run of the kernels is equal to the last bit."""
    exact = Case(kind, shape, precision).double().outcome(False)
    plain = largest_error(Case(kind, shape, precision).outcome(False), exact)
    first, second = (Case(kind, shape, precision).outcome(True) for _ in range(2))
    error, allowed = largest_error(first, exact), max(2 * plain, ALLOWED)
    repeats = all(torch.equal(first[name], second[name]) for name in first)
    return dict(error=error, allowed=allowed, plain=plain, repeats=repeats, ok=error <= allowed and repeats)


def time_ms(step: Callable[[], object], repeat: int) -> float:
    """Of a step in a row of steps, so that launches hide behind the work of a GPU; the median of three."""
    step()  # compiles
    return (
        statistics.median(timed(lambda: [step() for _ in range(repeat)])[1] for _ in range(3)) / repeat * 1000
    )


def speed(kind: str, shape: tuple, precision: str, repeat: int) -> dict:
    """ms of a forward and a backward pass by PyTorch and by the kernels."""
    case = Case(kind, shape, precision)
    plain, kernels = (time_ms(lambda: case.run(way), repeat) for way in (False, True))  # noqa: B023
    moved = PASSES[kind] * case.tensors[0].nbytes
    return dict(plain_ms=plain, kernels_ms=kernels, ratio=kernels / plain, gb_per_s=moved / kernels / 1e6)


def time_tiles(kind: str, shape: tuple, precision: str, repeat: int) -> None:
    """A row for each size of tiles; the first has those of launch.py."""
    from backbones.kernels import launch

    name = "ON_GPU" if torch.cuda.is_available() else "ON_CPU"
    first = getattr(launch, name)
    for change in [{}, *TILES]:
        tiles = replace(first, **change)
        row = dict(kind=kind, precision=precision, shape=shape, **vars(tiles))
        try:
            with mock.patch.object(launch, name, tiles):
                case = Case(kind, shape, precision)
                row["kernels_ms"] = time_ms(lambda: case.run(True), repeat)  # noqa: B023
        except Exception as error:  # too large for the chip, mostly: that is a result too
            row["failed"] = one_line(error)[:200]
        print_row("batch_norm_tiles", row)


def check_large(channels: int, side: int, images: int = 27, copies: int = 100) -> dict:
    """Many copies of some images have their statistics, results and gradients."""

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.repeat(copies, 1, 1, 1).contiguous(memory_format=torch.channels_last)

    few, many = (Case("prelu", (images, channels, side, side), "bf16") for _ in range(2))
    x, shortcut, gradient, _ = many.tensors
    many.tensors = [repeated(x), shortcut, repeated(gradient)]
    expected, got = few.run(True), many.run(True)
    pairs = {name: (got[name][-images:], expected[name]) for name in ("x", "y")}
    pairs |= {name: (got[name] / copies, expected[name]) for name in ("weight", "bias", "slope")}
    error = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs.values())
    return dict(kind="large", numbers=many.tensors[0].numel(), error=error, allowed=0.01, ok=error <= 0.01)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["bf16", "fp32"])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="CHANNELS:SIDE")
    parser.add_argument("--kinds", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--tiles", action="store_true")
    parser.add_argument("--large", action="store_true")
    args = parser.parse_args()

    wrong = 0
    for precision, shape, kind in itertools.product(args.precisions, args.shapes, args.kinds):
        channels, side = map(int, shape.split(":"))
        full = args.batch, channels, side, side
        if args.tiles:
            time_tiles(kind, full, precision, args.repeat)
            continue
        row = check(kind, full, precision) | speed(kind, full, precision, args.repeat)
        print_row("batch_norm", dict(kind=kind, precision=precision, shape=full, **row))
        wrong += not row["ok"]
    if args.large:
        row = check_large(64, 112)
        print_row("batch_norm", row)
        wrong += not row["ok"]
    if wrong:
        raise SystemExit(f"error: {wrong} rows are wrong")


if __name__ == "__main__":
    run_script(main)
