"""How the classifier's step grows with classes, batch and ranks; what crosses the network; what fits a card.

    python benchmarks/scaling.py [--classes 100000 200000 400000] [--batch 128] [--dim 512] [--precision fp32]
    python benchmarks/scaling.py --parts shards identities              # without the measurements of time

Each row is a line of JSON as soon as it is there:

    shards      one rank of 8 and of 64, simulated in one process: it has its share of the classes and the
                batch of all ranks; collectives are counted, not done. bytes_sent are those of a ring;
                `minimum` is one gather of the embeddings and one reduce-scatter of their gradient.
    classes, batches   time of a step (forward, backward, SGD), one rank; a last row has R² of the line.
    ranks       1, 2 and 3 processes (gloo, on the CPU), which share the classes out and bring a batch each:
                processor time of all ranks, divided by classes times samples.
    identities  classes that fit beside 8 GB for the rest, by arithmetic: numbers a class, 4 bytes each.

Times are processor time without a GPU. Centres are drawn on the device.
"""

import argparse
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import MIB, device, head_on_device, in_own_process, peak_memory, print_row, timed
from partial_fc import PartialFC
from training.optimizer import SGD
from utils.command_line import run_script
from utils.distributed import start_process_group, stop_process_group
from utils.precision import PRECISIONS

PARTS = ("shards", "classes", "batches", "ranks", "identities")
CARDS_GB = (24, 40, 80, 141)
RESERVED_GB = 8  # backbone, activations, blocks of the classifier
NUMBERS_A_CLASS = {"centres, gradient, momentum": 3, "centres, momentum (head_update='fused')": 2}


@contextmanager
def simulated_ranks(num_ranks: int) -> Iterator[list[float]]:
    """This process as rank 0 of so many, who bring what it brings; yields the bytes that it would send."""
    sent = []

    def all_reduce(tensor, *_):
        sent.append(2 * (num_ranks - 1) / num_ranks * tensor.nbytes)

    def all_gather(parts, tensor):
        sent.append((num_ranks - 1) * tensor.nbytes)
        for part in parts:
            part.copy_(tensor)

    group = dict(is_initialized=lambda: True, get_rank=lambda: 0, get_world_size=lambda: num_ranks)
    with mock.patch.multiple(dist, **group, all_reduce=all_reduce, all_gather=all_gather):
        yield sent


def make_batch(batch: int, dim: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings on the device and labels on the CPU."""
    random = torch.Generator().manual_seed(1)
    labels = torch.randint(num_classes, (batch,), generator=random)
    return torch.randn(batch, dim, generator=random).to(device()).requires_grad_(), labels


def make_step(head: PartialFC, embeddings: torch.Tensor, labels: torch.Tensor):
    optimizer = SGD([head.weight], lr=0.1, momentum=0.9, weight_decay=5e-4, fused=head.weight.is_cuda)

    def step() -> None:
        head(embeddings, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        embeddings.grad = None

    return step


def seconds_of(step, repeat: int) -> float:
    """Median of `repeat` steps after one: of the GPU by the clock, else of the processor."""
    found = []
    for _ in range(repeat + 1):
        start = time.process_time()
        by_clock = timed(step)[1]
        found.append(by_clock if torch.cuda.is_available() else time.process_time() - start)
    return statistics.median(found[1:])


def measure(num_ranks: int, num_classes: int, batch: int, dim: int, precision: str, repeat: int) -> dict:
    """One rank of `num_ranks`, with `batch` samples of its own."""
    with simulated_ranks(num_ranks) as sent:
        head = head_on_device("cosface", dim, num_classes, precision=precision)
        step = make_step(head, *make_batch(batch, dim, num_classes))
        step()  # the ranks learn how many labels there are
        sent.clear()
        step()
        found = dict(ranks=num_ranks, classes=num_classes, local_classes=head.num_local, batch=batch)
        found |= dict(bytes_sent=round(sum(sent)), minimum=2 * (num_ranks - 1) * batch * dim * 4)
        seconds = seconds_of(step, repeat)
    return found | dict(step_ms=1000 * seconds, peak_mib=peak_memory() / MIB)


def on_rank(environment: dict, sizes: tuple[int, int, int, str, int], pipe) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    start_process_group()
    num_classes, batch, dim, precision, repeat = sizes
    head = head_on_device("cosface", dim, num_classes, precision=precision)
    pipe.send(seconds_of(make_step(head, *make_batch(batch, dim, num_classes)), repeat))
    stop_process_group()


def measure_ranks(num_ranks: int, sizes: tuple[int, int, int, str, int]) -> float:
    """Seconds of the processor for a step, of all ranks together."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=str(num_ranks))
    common |= dict(CUDA_VISIBLE_DEVICES="")
    pipes = [context.Pipe(duplex=False) for _ in range(num_ranks)]
    processes = [
        context.Process(target=on_rank, args=(common | {"RANK": str(r)}, sizes, send))
        for r, (_, send) in enumerate(pipes)
    ]
    try:
        for process, (_, send) in zip(processes, pipes):
            process.start()
            send.close()
        return sum(receive.recv() for receive, _ in pipes)
    finally:
        for process in processes:
            process.join(10)
            process.kill()


def r_squared(x: list[float], y: list[float]) -> float:
    """How much of the variance of y a straight line through (x, y) explains."""
    return float(np.corrcoef(x, y)[0, 1] ** 2) if len(x) > 2 else float("nan")


def growth(name: str, cases: list[tuple[int, int]], args: argparse.Namespace) -> None:
    """A row for each (classes, batch), and one for the line through them."""
    sizes, times = [], []
    for num_classes, batch in cases:
        try:
            rest = args.dim, args.precision, args.repeat
            row = in_own_process(measure, 1, num_classes, batch, *rest)
        except RuntimeError as error:  # out of memory, say: the larger ones would be so too
            print_row("scaling", dict(part=name, classes=num_classes, batch=batch, error=str(error)))
            break
        print_row("scaling", dict(part=name, precision=args.precision, dim=args.dim) | row)
        sizes.append(num_classes * batch), times.append(row["step_ms"])
    print_row("scaling", dict(part=name, points=len(sizes), r_squared=r_squared(sizes, times)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--classes", nargs="+", type=int, default=[100_000, 200_000, 400_000])
    parser.add_argument("--batch", type=int, default=128, help="of a rank")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    first, rest = args.classes[0], (args.dim, args.precision, args.repeat)
    if "shards" in args.parts:
        for num_ranks in (8, 64):
            row = in_own_process(measure, num_ranks, args.classes[-1], args.batch, *rest)
            print_row("scaling", dict(part="shards", of_minimum=row["bytes_sent"] / row["minimum"]) | row)
    if "classes" in args.parts:
        growth("classes", [(number, args.batch) for number in args.classes], args)
    if "batches" in args.parts:
        growth("batches", [(first, factor * args.batch) for factor in (1, 2, 3, 4)], args)
    if "ranks" in args.parts:
        for num_ranks in (1, 2, 3):
            seconds = measure_ranks(num_ranks, (first, args.batch, *rest))
            nanoseconds = 1e9 * seconds / first / (num_ranks * args.batch)
            print_row(
                "scaling",
                dict(
                    part="ranks",
                    ranks=num_ranks,
                    classes=first,
                    cpu_ms=1000 * seconds,
                    ns_a_logit=nanoseconds,
                ),
            )
    if "identities" in args.parts:
        for card in CARDS_GB:
            for kept, numbers in NUMBERS_A_CLASS.items():
                fit = int((card - RESERVED_GB) * 1e9 / (4 * numbers * args.dim))
                print_row("scaling", dict(part="identities", card_gb=card, kept=kept, classes=fit))


if __name__ == "__main__":
    run_script(main)
