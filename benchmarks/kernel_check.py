"""Are the GPU kernels of the classifier right on this card? A line of JSON for each loss and precision.

    python benchmarks/kernel_check.py [--precisions fp32 bf16 fp16] [--losses cosface ...] [--million]

Loss and gradients of kernels=True against `dense` in float64: in fp32, without tf32, the largest error may be
1e-5 of the largest gradient (or twice that of dense in float32, where that is more), in bf16 and fp16 twice
that of dense in the same precision. Two runs have to agree to the last bit. --million: 4.3 million classes,
whose offsets exceed 2^31, get what PyTorch gives them. Ends with code 1 where a row is wrong.
"""

import argparse
import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import device, head_on_device, print_row
from classifier.kernels.choice import has_kernel
from losses import LOSSES, build_loss
from utils.command_line import run_script
from utils.precision import PRECISIONS

WITH_KERNELS = [name for name in LOSSES if has_kernel(build_loss(name))]
FILTERED = {"interclass_filtering_threshold": 0.25}  # of "combined", which moves no others without it
FIRST = ["cosface", "curricularface", "npcface", "uniface"]  # most of the kernels; the order of the rows
SETTINGS = [(name, {}) for name in dict.fromkeys(FIRST + WITH_KERNELS)] + [("combined", FILTERED)]
ALLOWED = 1e-5


def run(loss: str, hyper: dict, sizes: dict, dtype: torch.dtype, **settings) -> dict[str, torch.Tensor]:
    """Loss and gradients of one step, the same numbers for equal sizes."""
    head = head_on_device(loss, sizes["dim"], sizes["classes"], hyper=hyper, **settings).to(dtype)
    random = torch.Generator().manual_seed(1)
    labels = torch.randint(sizes["classes"], (sizes["batch"],), generator=random)
    noise = torch.randn(sizes["batch"], sizes["dim"], generator=random).to(device())
    near = torch.linspace(0, 3, sizes["batch"], device=device())[:, None]  # from far off the class to near it
    own = torch.nn.functional.normalize(head.weight.data.float()[labels.to(device())])
    embeddings = (noise + near * own * sizes["dim"] ** 0.5).to(dtype).requires_grad_()
    value = head(embeddings, labels)
    value.backward()
    gradients = {"embeddings": embeddings.grad, "centres": head.weight.grad.to_dense()}
    learnt = {name: parameter.grad for name, parameter in head.loss.named_parameters()}
    return {"loss": value.detach(), **gradients, **learnt}


def largest_error(got: dict, expected: dict) -> float:
    """Of loss and gradients, each relative to the largest number of the expected one."""
    return max(
        ((got[name].double() - value).abs().max() / value.abs().max()).item()
        for name, value in expected.items()
    )


def check(loss: str, hyper: dict, precision: str, sizes: dict) -> dict:
    """One row: the error, what is allowed, and whether a second run was equal to the last bit."""
    settings = dict(precision=precision, sample_rate=sizes["rate"])
    exact = run(loss, hyper, sizes, torch.float64, engine="dense", sample_rate=sizes["rate"])
    dense = largest_error(run(loss, hyper, sizes, torch.float32, engine="dense", **settings), exact)
    first, second = (run(loss, hyper, sizes, torch.float32, kernels=True, **settings) for _ in range(2))
    error = largest_error(first, exact)
    allowed = max(2 * dense, ALLOWED)
    repeats = all(torch.equal(first[name], second[name]) for name in first)
    return dict(error=error, allowed=allowed, dense=dense, repeats=repeats, ok=error <= allowed and repeats)


def check_million(num_classes: int = 4_300_000, batch: int = 256, dim: int = 512) -> dict:
    """The last classes of a head whose offsets need 64 bits, in bf16, against PyTorch's operations."""
    results = []
    labels = torch.arange(num_classes - batch, num_classes)
    for kernels in (True, False):
        head = head_on_device("cosface", dim, num_classes, precision="bf16", kernels=kernels)
        random = torch.Generator().manual_seed(1)
        embeddings = torch.randn(batch, dim, generator=random).to(device()).requires_grad_()
        loss = head(embeddings, labels)
        loss.backward()
        last, some = head.weight.grad[-4 * batch :].clone(), head.weight.grad[::100_003].clone()
        results.append({"loss": loss.detach(), "embeddings": embeddings.grad, "last": last, "some": some})
        del head, loss
    error = largest_error(*results)
    return dict(
        loss="cosface", precision="bf16", classes=num_classes, error=error, allowed=0.05, ok=error <= 0.05
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--losses", nargs="*", choices=WITH_KERNELS, default=WITH_KERNELS, metavar="LOSS")
    parser.add_argument("--classes", type=int, default=3001)
    parser.add_argument("--batch", type=int, default=300)
    parser.add_argument("--dims", type=int, nargs="+", default=[200])
    parser.add_argument("--million", action="store_true")
    args = parser.parse_args()

    torch.backends.cuda.matmul.allow_tf32 = False
    wrong = 0
    shapes = itertools.product(args.precisions, args.dims, (1.0, 0.3))
    for precision, dim, rate in shapes:
        sizes = dict(classes=args.classes, batch=args.batch, dim=dim, rate=rate)
        for loss, hyper in SETTINGS:
            if loss not in args.losses:
                continue
            row = check(loss, hyper, precision, sizes)
            print_row("kernel_check", dict(loss=loss, **hyper, precision=precision, **sizes, **row))
            wrong += not row["ok"]
    if args.million:
        row = check_million()
        print_row("kernel_check", row)
        wrong += not row["ok"]
    if wrong:
        raise SystemExit(f"error: {wrong} rows are wrong")


if __name__ == "__main__":
    run_script(main)
