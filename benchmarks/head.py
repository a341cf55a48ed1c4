"""The classifier's step: stream against dense against the algorithm of insightface's arcface_torch.

    python benchmarks/head.py [--classes 10000 100000 400000] [--batch 512] [--dim 512] [--precision fp32]

One rank has all classes. First a small head checks that losses and gradients of all methods are equal. Then
each measurement runs in a process of its own. over_mib is the peak memory minus what existed before the first
step and minus the gradient of the centres. Ratios are to the first method.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import MIB, device, in_own_process, median_ms, peak_memory, report, timed
from losses import build_loss
from partial_fc import PartialFC
from utils.command_line import run_script
from utils.precision import PRECISIONS, autocast

METHODS = ("arcface_torch", "dense", "stream")


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

    def __init__(
        self, embedding_size: int, num_classes: int, precision: str, s: float = 64.0, m: float = 0.4
    ):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(num_classes, embedding_size))
        self.precision, self.s, self.m = precision, s, m

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with autocast(embeddings.device, self.precision):
            logits = F.linear(F.normalize(embeddings), F.normalize(self.weight))
        logits = logits.float().clamp(-1, 1)
        with torch.no_grad():
            logits[torch.arange(len(labels), device=labels.device), labels] -= self.m
        return WholeSoftmax.apply(logits * self.s, labels)


def make_step(method: str, num_classes: int, batch: int, dim: int, precision: str):
    """(head, embeddings, labels) on the device; every method gets the same numbers."""
    random = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch, dim, generator=random)
    labels = torch.randint(num_classes, (batch,), generator=random)
    if method == "arcface_torch":
        head = ArcFaceTorchHead(dim, num_classes, precision)
    else:
        head = PartialFC(build_loss("cosface"), dim, num_classes, engine=method, precision=precision)
    head.weight.data.normal_(0, 0.01, generator=random)
    return head.to(device()), embeddings.to(device()).requires_grad_(), labels.to(device())


def check_equal(precision: str) -> None:
    """All methods give one loss and one gradient.

    Raises:
        AssertionError: they do not; then times cannot be compared.
    """
    results = []
    for method in METHODS:
        head, embeddings, labels = make_step(method, num_classes=5003, batch=64, dim=128, precision=precision)
        loss = head(embeddings, labels)
        loss.backward()
        results.append((loss.detach(), embeddings.grad, head.weight.grad))
    tolerance = 1e-5 if precision == "fp32" else 5e-2
    for method, others in zip(METHODS[1:], results[1:]):
        for what, expected, got in zip(
            ("loss", "embeddings' gradient", "centres' gradient"), results[0], others
        ):
            error = ((got - expected).abs().max() / expected.abs().max()).item()
            assert error < tolerance, f"{method}: {what} differs from arcface_torch's by {error:.1e}"


def measure(method: str, num_classes: int, batch: int, dim: int, precision: str, repeat: int) -> dict:
    head, embeddings, labels = make_step(method, num_classes, batch, dim, precision)
    before = peak_memory()
    forward, backward = [], []
    for _ in range(repeat + 1):  # the first one is to warm up
        head.weight.grad = embeddings.grad = None
        loss, seconds = timed(head, embeddings, labels)
        forward.append(seconds)
        backward.append(timed(loss.backward)[1])
    gradient = head.weight.numel() * 4
    return dict(
        forward_ms=median_ms(forward[1:]),
        backward_ms=median_ms(backward[1:]),
        total_ms=median_ms([f + b for f, b in zip(forward[1:], backward[1:])]),
        over_mib=(peak_memory() - before - gradient) / MIB,
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
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    args = parser.parse_args()

    check_equal(args.precision)
    rows = []
    for num_classes in args.classes:
        reference = None
        for method in args.methods:
            result = in_own_process(
                measure, method, num_classes, args.batch, args.dim, args.precision, args.repeat
            )
            reference = reference or result
            time_ratio = result["total_ms"] / reference["total_ms"]
            memory_ratio = result["over_mib"] / reference["over_mib"]
            rows.append(
                dict(
                    classes=num_classes,
                    method=method,
                    **result,
                    time_ratio=time_ratio,
                    memory_ratio=memory_ratio,
                )
            )
    report("head", rows, vars(args))


if __name__ == "__main__":
    run_script(main)
