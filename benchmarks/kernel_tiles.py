"""Which tiles are fastest for the GPU kernels of the classifier, on this card; and what the compiler says.

    python benchmarks/kernel_tiles.py [--precision bf16] [--batch 1024] [--dim 512] [--loss cosface]
    python benchmarks/kernel_tiles.py --compile 9.0       # without a GPU: registers, spills, shared memory

One span of classes on scratch tensors, each kernel alone, a line of JSON for each: the median of the runs, as
ms for a million classes. The first row of a kernel has the sizes of classifier/kernels/tiles.py, the others
change some of them; the fastest ones belong into that table, for this kind of card. --compile reports the
kernels of BatchNorm too, whose tiles `benchmarks/batch_norm.py --tiles` measures.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import device, median_ms, print_row, timed
from classifier.kernels.choice import has_kernel
from classifier.shard import Shard
from classifier.step import Step
from classifier.step_loss import StepLoss
from losses import LOSSES, build_loss
from utils.command_line import run_script
from utils.errors import one_line
from utils.precision import PRECISIONS

REPORTED = ("C", "S", "DP", "DB", "PRECISION", "ROWS", "CHANNELS", "PRELU", "ADD")  # constants of a kernel
KERNELS = ("log_sum", "gradient_blocks", "embeddings", "centres")
OTHERS = {  # what to try instead, by kernel; with these sizes of bf16 in mind
    "log_sum": [
        *(dict(classes=c, samples=s) for c, s in ((64, 32), (64, 128), (32, 64), (128, 32), (128, 64))),
        *(dict(warps=w, stages=s) for w, s in ((4, 2), (8, 1), (8, 3), (16, 2))),
    ],
    "embeddings": [
        *(dict(rows=r, dims=d) for r, d in ((64, 128), (64, 256), (128, 256), (256, 128), (64, 512))),
        *(dict(row_warps=w, row_stages=s) for w, s in ((4, 3), (8, 2), (8, 4))),
    ],
}
OTHERS["gradient_blocks"] = OTHERS["centres"] = OTHERS["log_sum"]


def calls(args: argparse.Namespace, tiles, where: torch.device) -> dict[str, Callable[[], object]]:
    """By name, each kernel on scratch tensors: what it reads and what it writes are apart."""
    from classifier.kernels.launch import Blocks, Classes, Kernels, Samples, Scales

    dtype, loss = PRECISIONS[args.precision], build_loss(args.loss)
    shard = Shard.of_batch(torch.arange(args.batch), range(args.classes), where)
    step = Step(StepLoss(loss, {}, False), shard, dtype, 1, False, False, filter_gradients=args.filter)
    kernels = Kernels(step, tiles)
    sizes = dict(device=where, dtype=torch.float32)
    weight = torch.randn(args.classes, args.dim, **sizes)
    classes = Classes(weight, 1 / weight.norm(dim=1))
    left = torch.nn.functional.normalize(torch.randn(args.batch, args.dim, **sizes))
    row = torch.full((args.batch,), 0.3, **sizes)
    inputs = step.loss.kernel_inputs(row, row)._replace(row=row, scalar=row[0].clone())
    samples = Samples((left * step.loss.product_scale).to(dtype), shard.own, inputs)
    memory = torch.empty(args.classes, args.batch, device=where, dtype=dtype)
    reference, _, _ = kernels.log_sum(classes, samples, memory, False)
    blocks = Blocks(memory, reference)
    top = reference.amax(0)
    scales = Scales(top, top - 20)
    slices = max(132 // (-(-args.batch // tiles.rows) * -(-args.dim // tiles.dims)), 1)
    partial, out = torch.zeros(slices, args.batch, args.dim, **sizes), torch.empty_like(weight)
    return {
        "statistics": lambda: kernels.statistics(classes, samples),
        "log_sum": lambda: kernels.log_sum(classes, samples, memory, False),
        "gradient_blocks": lambda: kernels.gradient_blocks(classes, samples, top, memory),
        "embeddings": lambda: kernels.add_to_embeddings(classes, blocks, scales, row, partial),
        "centres": lambda: kernels.write_centres(classes, [blocks], scales, left, out),
    }


def candidates(kernel: str, first) -> Iterator:
    yield first
    for change in OTHERS[kernel]:
        yield replace(first, **change)


def time_all(args: argparse.Namespace) -> None:
    """A row for each kernel and candidate."""
    from classifier.kernels.tiles import tiles_for

    first = tiles_for(device(), PRECISIONS[args.precision], args.dim)
    for kernel in args.kernels:
        for tiles in candidates(kernel, first):
            row = dict(kernel=kernel, precision=args.precision, batch=args.batch, dim=args.dim, **vars(tiles))
            try:
                call = calls(args, tiles, device())[kernel]
                call()  # compiles
                seconds = [timed(call)[1] for _ in range(args.repeat)]
                row["ms_for_a_million"] = median_ms(seconds) * 1e6 / args.classes
            except Exception as error:  # too large for the chip, mostly: that is a result too
                row["failed"] = one_line(error)[:200]
            print_row("kernel_tiles", row)


# ---- without a GPU


class Compiled:
    """Stands in for a kernel: compiles it for a card as a launch would, reports, and runs nothing."""

    def __init__(self, kernel, capability: str, report: Callable[[dict], None]):
        self.kernel, self.report = kernel, report
        self.capability = int(capability.replace(".", ""))

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, num_warps: int, num_stages: int = 3, **constants) -> None:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = self.kernel.arg_names
        given = dict(zip(names, arguments)) | constants
        signature = {n: "constexpr" if n in constants else kind_of(given[n]) for n in names}
        even = [n for n in names if n not in constants and is_even(given[n])]
        attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in even}
        source = ASTSource(self.kernel, signature, constants, attributes)
        options = dict(num_warps=num_warps, num_stages=num_stages)
        done = triton.compile(source, target=GPUTarget("cuda", self.capability, 32), options=options)
        row = dict(kernel=self.kernel.fn.__name__, capability=self.capability / 10, **options)
        row |= {n: v for n, v in constants.items() if n in REPORTED}
        self.report(row | dict(shared_kib=done.metadata.shared / 1024, **resources(done.asm["cubin"])))


def kind_of(value) -> str:
    kinds = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64"}
    if isinstance(value, torch.Tensor):
        return kinds[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def is_even(value) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and the bytes that it had to leave in memory."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    return dict(registers=int(registers), spilled_bytes=int(stack))


def compile_all(args: argparse.Namespace) -> None:
    """A row for each kernel as it would be launched on that card."""
    from classifier.kernels import launch
    from classifier.kernels.tiles import tiles_on

    names = ("lse_kernel", "statistics_kernel", "gradient_kernel", "embeddings_kernel", "centres_kernel")
    capability = tuple(map(int, args.compile.split(".")))
    report = lambda row: print_row("kernel_tiles", dict(**row, precision=args.precision))  # noqa: E731
    stand_ins = {name: Compiled(getattr(launch, name), args.compile, report) for name in names}
    tiles = tiles_on(capability, PRECISIONS[args.precision], args.dim)
    with mock.patch.multiple(launch, **stand_ins):
        made = calls(args, tiles, torch.device("cpu"))  # has compiled log_sum, which the others need
        more = ["statistics"] if build_loss(args.loss).has_row_statistics else []
        for kernel in [*args.kernels, *more]:
            if kernel != "log_sum":
                made[kernel]()


def compile_batch_norm(args: argparse.Namespace) -> None:
    """A row for each kernel of BatchNorm, for `(2, 64, 56, 56)`, alone, with PReLU, and with a shortcut."""
    from backbones.kernels import launch

    names = (
        "moments_kernel",
        "combine_kernel",
        "sums_kernel",
        "normalise_kernel",
        "input_gradient_kernel",
    )
    report = lambda row: print_row("kernel_tiles", dict(**row, precision=args.precision))  # noqa: E731
    stand_ins = {name: Compiled(getattr(launch, name), args.compile, report) for name in names}
    x = torch.zeros(2, 64, 56, 56, dtype=PRECISIONS[args.precision]).to(memory_format=torch.channels_last)
    vector = torch.zeros(64)
    with mock.patch.multiple(launch, **stand_ins):
        for has_prelu, added in ((True, None), (False, x)):
            kernels = launch.Kernels(x, has_prelu, launch.ON_GPU)
            vectors = launch.Vectors(*[vector] * 5)
            if has_prelu:
                kernels.statistics(
                    x, 1e-5, launch.Running(vector, vector, torch.zeros((), dtype=torch.int64)), 0.1
                )
            kernels.normalise(x, added, vectors)
            sums = kernels.sums(x, x, vectors)
            kernels.input_gradient(x, x, added, vectors, sums)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    with_kernel = [name for name in LOSSES if has_kernel(build_loss(name))]
    parser.add_argument("--loss", choices=with_kernel, default="cosface", metavar="LOSS")
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--filter", action="store_true", help="as with filter_gradients")
    parser.add_argument("--classes", type=int, default=1 << 17)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument(
        "--compile", metavar="CAPABILITY", help="9.0, say: compile for that card, run nothing"
    )
    args = parser.parse_args()
    if args.compile:
        compile_all(args)
        compile_batch_norm(args)
    else:
        time_all(args)


if __name__ == "__main__":
    run_script(main)
