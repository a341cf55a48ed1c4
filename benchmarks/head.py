"""The classifier's step: stream, with and without its kernels, dense, and arcface_torch's algorithm.

    python benchmarks/head.py [--classes 10000 100000 400000] [--batch 512] [--dim 512] [--precision fp32]
    python benchmarks/head.py --methods stream kernels --losses cosface curricularface       # on a GPU
    python benchmarks/head.py --methods stream fused --optimizer sgd           # head_update="fused" or not
    python benchmarks/head.py --methods stream --optimizer sgd --sample-rate 0.1 --sampled-update dense

One rank has all classes. First a small head checks that losses and gradients of all methods are equal. Then
each measurement runs in a process of its own, and is a line of JSON as soon as it is there. over_mib is the
peak memory minus what existed before the first step and minus the gradient of the centres. With an optimizer
a step includes its update, and over_mib includes the gradient but not the optimiser's state. cpu_ms is the
processor time of all threads in a step. Ratios are to the first method of the same loss and classes.
arcface_torch's algorithm is CosFace; it sits out other losses.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    MIB,
    device,
    head_on_device,
    in_own_process,
    median_ms,
    peak_memory,
    print_row,
    report,
    timed,
)
from losses import LOSSES
from training.head_update import HeadUpdate
from training.optimizer import build_optimizer
from utils.command_line import run_script
from utils.errors import one_line
from utils.precision import PRECISIONS, autocast

METHODS = ("arcface_torch", "dense", "stream")
ALL_METHODS = (*METHODS, "kernels", "fused")  # stream with kernels=True, with head_update="fused"


class WholeSoftmax(torch.autograd.Function):
    """arcface_torch's cross-entropy, step by step, including its copies of the matrix.

    The logits become probabilities in place. An index selects the rows whose class is on this rank, here and
    in the backward pass, which subtracts a one-hot matrix from these rows and copies the matrix once more.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits.sub_(logits.max(dim=1, keepdim=True)[0]).exp_()
        logits.div_(logits.sum(1, keepdim=True))
        rows = torch.where(labels != -1)[0]
        own = torch.zeros(len(labels), 1, device=logits.device)
        own[rows] = logits[rows].gather(1, labels[rows, None])
        ctx.save_for_backward(rows, logits, labels)
        return -own.clamp_min(1e-30).log().mean()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        rows, logits, labels = ctx.saved_tensors
        one_hot = torch.zeros(len(rows), logits.shape[1], device=logits.device)
        one_hot.scatter_(1, labels[rows, None], 1)
        logits[rows] -= one_hot
        return logits.div_(len(labels)) * gradient, None


class ArcFaceTorchHead(torch.nn.Module):
    """arcface_torch's PartialFC_V2 on one rank: normalise everything, all logits, the margin in place."""

    def __init__(self, weight: torch.nn.Parameter, precision: str, s: float = 64.0, m: float = 0.4):
        super().__init__()
        self.weight = weight
        self.precision, self.s, self.m = precision, s, m

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with autocast(embeddings.device, self.precision):
            logits = F.linear(F.normalize(embeddings), F.normalize(self.weight))
        logits = logits.float().clamp(-1, 1)
        with torch.no_grad():
            logits[torch.arange(len(labels), device=labels.device), labels] -= self.m
        return WholeSoftmax.apply(logits * self.s, labels)


class RecordedGradient:
    """An update rule that moves nothing and keeps the gradient of the centres."""

    def __init__(self, weight: torch.nn.Parameter):
        self.weight, self.step_loss = weight, torch.zeros((), device=weight.device)

    def start(self, skipped: torch.Tensor) -> None:
        self.weight.grad = torch.zeros_like(self.weight)

    def step_rows(self, parameter: torch.nn.Parameter, rows: slice, gradient: torch.Tensor) -> None:
        self.weight.grad[rows] = gradient


def make_optimizer(head: torch.nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer | None:
    """The optimiser of the centres; with method "fused" the head gets its update rule."""
    if args.optimizer is None:
        return None
    cfg = SimpleNamespace(optimizer=args.optimizer, momentum=0.9, weight_decay=5e-4)
    cfg.no_decay_norm_bias, cfg.sampled_update = False, args.sampled_update
    optimizer = build_optimizer(cfg, torch.nn.Identity(), head, lr=0.1)
    if head.head_update == "fused":
        dtype = torch.bfloat16 if args.head_momentum == "bf16" else None
        head.update_rule = HeadUpdate(optimizer, head.class_parameters(), dtype)
    return optimizer


def make_step(
    method: str, loss: str, num_classes: int, batch: int, dim: int, precision: str, sample_rate: float = 1.0
):
    """(head, embeddings, labels) on the device; every method gets the same numbers."""
    random = torch.Generator().manual_seed(1)  # not that of the centres
    embeddings = torch.randn(batch, dim, generator=random)
    labels = torch.randint(num_classes, (batch,), generator=random)
    settings = dict(engine="dense" if method == "dense" else "stream", sample_rate=sample_rate)
    settings |= dict(kernels=method == "kernels", head_update="fused" if method == "fused" else "optimizer")
    head = head_on_device(loss, dim, num_classes, precision=precision, **settings)
    if method == "arcface_torch":
        head = ArcFaceTorchHead(head.weight, precision)
    return head, embeddings.to(device()).requires_grad_(), labels


def check_equal(methods: list[str], precision: str) -> None:
    """All methods give one loss and one gradient.

    Raises:
        AssertionError: they do not; then times cannot be compared.
    """
    results = []
    for method in methods:
        head, embeddings, labels = make_step(method, "cosface", 5003, batch=64, dim=128, precision=precision)
        if method == "fused":
            head.update_rule = RecordedGradient(head.weight)
        loss = head(embeddings, labels.to(device()) if method == "arcface_torch" else labels)
        loss.backward()
        results.append((loss.detach(), embeddings.grad, head.weight.grad))
    tolerance = 1e-5 if precision == "fp32" else 5e-2
    for method, others in zip(methods[1:], results[1:]):
        for what, expected, got in zip(
            ("loss", "embeddings' gradient", "centres' gradient"), results[0], others
        ):
            error = ((got - expected).abs().max() / expected.abs().max()).item()
            assert error < tolerance, f"{method}: {what} differs from {methods[0]}'s by {error:.1e}"


def measure(method: str, loss: str, num_classes: int, args: argparse.Namespace) -> dict:
    """Times and memory of one method, as the columns of a row."""
    sizes = num_classes, args.batch, args.dim, args.precision, args.sample_rate
    head, embeddings, labels = make_step(method, loss, *sizes)
    labels = labels.to(device()) if method == "arcface_torch" else labels
    optimizer = make_optimizer(head, args)
    before = peak_memory()
    times = {"forward_ms": [], "backward_ms": [], "update_ms": [], "cpu_ms": []}
    for _ in range(args.repeat + 1):  # the first one is to warm up
        head.weight.grad = embeddings.grad = None
        start = time.process_time()
        result, seconds = timed(head, embeddings, labels)
        times["forward_ms"].append(seconds)
        times["backward_ms"].append(timed(result.backward)[1])
        times["update_ms"].append(timed(optimizer.step)[1] if optimizer else 0.0)
        times["cpu_ms"].append(time.process_time() - start)
    kept = head.weight.nbytes  # the gradient
    if optimizer:
        kept = sum(value.nbytes for value in optimizer.state[head.weight].values())
    return dict(
        **{name: median_ms(seconds[1:]) for name, seconds in times.items()},
        total_ms=median_ms([f + b + u for f, b, u, _ in zip(*times.values())][1:]),
        over_mib=(peak_memory() - before - kept) / MIB,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 100_000, 400_000])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=ALL_METHODS, default=METHODS)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=["cosface"], metavar="LOSS")
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), help="a step ends with its update")
    parser.add_argument("--head-momentum", choices=("fp32", "bf16"), default="fp32", help="of method fused")
    parser.add_argument("--sample-rate", type=float, default=1.0)
    parser.add_argument("--sampled-update", choices=("sparse", "dense"), default="sparse")
    args = parser.parse_args()
    if "fused" in args.methods and not args.optimizer:
        parser.error("method fused needs --optimizer")

    check_equal(args.methods, args.precision)
    rows = []
    for loss, num_classes in itertools.product(args.losses, args.classes):
        reference = None
        for method in args.methods:
            if method == "arcface_torch" and loss != "cosface":
                continue
            row = dict(loss=loss, classes=num_classes, method=method)
            try:
                result = in_own_process(measure, method, loss, num_classes, args)
            except RuntimeError as error:  # out of memory, for one; the other rows shall be told
                print_row("head", dict(**row, precision=args.precision, failed=one_line(error)))
                continue
            reference = reference or result
            row |= dict(
                **result,
                time_ratio=result["total_ms"] / reference["total_ms"],
                cpu_ratio=result["cpu_ms"] / reference["cpu_ms"],
                memory_ratio=result["over_mib"] / reference["over_mib"],
            )
            print_row("head", dict(**row, batch=args.batch, dim=args.dim, precision=args.precision))
            rows.append(row)
    if not rows:
        raise SystemExit("error: no measurement came to its end")
    report("head", rows, vars(args))


if __name__ == "__main__":
    run_script(main)
