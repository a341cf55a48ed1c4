"""The loader's worker processes beside threads that do the same work, with a training loop idle and busy.

    python benchmarks/loader_threads.py [--workers 1 2] [--rounds 3]

OpenCV lets other threads run while it decodes, so threads may do, and need no messages between processes.
Both write their batches into the same kind of places, mirrored at .5, from drawn JPEGs of about 5 kB. Between
two batches the training loop does nothing, multiplies matrices, or calls thousands of tiny operations, as a
loop does that feeds a GPU. All rows take turns within a round. us_per_image is processor time of all that is
not the training loop's own work, images_per_s is by the clock, loop_ms what that work takes by the clock.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch

from benchmarks.common import print_row, report
from benchmarks.loader import draw_records, processor_seconds
from dataset import MergedDataset, RecordDataset
from loading.augment import Augmentation
from loading.loader import Batches, DistributedSampler, FaceLoader, Tasks
from loading.shared_images import PREFETCH, Ring
from utils.command_line import run_script

MIRRORED = Augmentation(flip_prob=0.5)


class ThreadedLoader:
    """The batches of a FaceLoader, made by threads of this process."""

    def __init__(self, dataset, sampler: DistributedSampler, num_workers: int):
        ring = Ring(num_workers, len(sampler.part))
        self.sampler, self.tasks, self.num_ahead = sampler, Tasks(sampler, ring), PREFETCH * num_workers
        self.batches = Batches(dataset, MIRRORED, sampler.seed, places=ring.memory)
        self.threads = ThreadPoolExecutor(num_workers)

    def __iter__(self) -> Iterator[tuple]:
        waiting = deque()
        for task in self.tasks:
            waiting.append(self.threads.submit(self.batches.__getitem__, task))
            if len(waiting) > self.num_ahead:
                yield self._batch(waiting.popleft().result())
        while waiting:
            yield self._batch(waiting.popleft().result())

    def _batch(self, made: tuple) -> tuple:
        place, numbers, _ = made
        return place.images(), *torch.from_numpy(numbers)


def loops() -> dict[str, Callable]:
    """What a training loop does between two batches, by name."""
    matrix, row = torch.rand(512, 512) / 256, torch.rand(8, 64)

    def multiply() -> None:
        product = matrix
        for _ in range(8):
            product = product @ matrix

    def tiny_operations() -> None:
        for _ in range(2500):
            row.mul_(1.0)

    return {"idle": lambda: None, "matrix products": multiply, "tiny operations": tiny_operations}


def measure(loader, loop: Callable, pids: list[int]) -> tuple[float, float, float]:
    """Processor seconds beside the loop, seconds in all, and those of the loop's own work, of one epoch."""
    own = own_by_clock = 0.0
    before, start = processor_seconds(pids), time.perf_counter()
    for _ in loader:
        thread, clock = time.thread_time(), time.perf_counter()
        loop()
        own, own_by_clock = own + time.thread_time() - thread, own_by_clock + time.perf_counter() - clock
    seconds = time.perf_counter() - start
    return processor_seconds(pids) - before - own, seconds, own_by_clock


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)

    loaders, found = {}, defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        dataset = MergedDataset([RecordDataset(draw_records(Path(folder)))] * 2)
        for num_workers in args.workers:
            sampler = DistributedSampler(len(dataset), args.batch, rank=0, world_size=1, seed=0)
            processes = FaceLoader(dataset, sampler, MIRRORED, num_workers=num_workers)
            next(iter(processes))  # starts them
            pids = [worker.pid for worker in processes._loader._iterator._workers]
            loaders[num_workers, "processes"] = processes, pids
            loaders[num_workers, "threads"] = ThreadedLoader(dataset, sampler, num_workers), []
        for _ in range(args.rounds):
            for name, loop in loops().items():
                for key, (loader, pids) in loaders.items():
                    found[name, *key].append(measure(loader, loop, pids))
    rows, num_batches = [], len(sampler)
    for (name, num_workers, kind), times in sorted(found.items()):
        cpu, seconds, own = np.median(times, axis=0).tolist()
        images = num_batches * args.batch
        row = dict(loop=name, workers=num_workers, kind=kind, us_per_image=cpu / images * 1e6)
        rows.append(row | dict(images_per_s=images / seconds, loop_ms=own / num_batches * 1e3))
        print_row("loader_threads", rows[-1])
    report("loader_threads", rows, vars(args))


if __name__ == "__main__":
    run_script(main)
