"""The loader beside `cv2.imdecode` alone on the same bytes: processor time an image, and share of the rate.

    python benchmarks/loader.py [--folder FOLDER] [--batch 128] [--workers 1] [--rounds 9]

FOLDER holds a train.rec; without one, 1,024 textured images are drawn and packed as JPEG of about 5 kB. All
rows take turns within a round, on one core; a row's share is the median over the rounds of imdecode's time
divided by its own. "batch" is what a worker does, in this process. "through workers" has the time of all
processes together, until images and labels are in the training process. First one batch is compared with
images that were read one by one.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch

from benchmarks.common import print_row, report
from dataset import RecordDataset
from loading.augment import Augmentation
from loading.loader import Batches, DistributedSampler, FaceLoader
from utils.command_line import run_script
from utils.recordio import IndexedRecordWriter

CHANCES = {  # crop, low resolution, photometric, mirror
    "nothing changed": (0, 0, 0, 0),
    "mirrored at .5": (0, 0, 0, 0.5),
    "AdaFace's changes at .2": (0.2, 0.2, 0.2, 0.5),
    "each cropped": (1, 0, 0, 0),
    "each of low resolution": (0, 1, 0, 0),
    "each photometric": (0, 0, 1, 0),
}


def draw_records(folder: Path, num_images: int = 1024) -> Path:
    """Smooth random images with noise: as many bytes as a JPEG of a face has."""
    random = np.random.default_rng(0)
    with IndexedRecordWriter(folder / "train.idx", folder / "train.rec") as records:
        for key in range(num_images):
            coarse = random.integers(40, 216, (7, 7, 3)).astype(np.float32)
            noise = cv2.GaussianBlur(random.normal(0, 12, (112, 112, 3)), (0, 0), 0.8)
            image = cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC) + noise
            image = image.clip(0, 255).astype(np.uint8)
            _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
            records.write(key, key % 50, encoded.tobytes())
    return folder


def check_equal(dataset: RecordDataset, indices: np.ndarray) -> None:
    """A batch holds the images that are read one by one."""
    images, numbers, _ = Batches(dataset, Augmentation(), seed=0)[0, indices, None]
    for image, label, index in zip(images, *numbers):
        expected, expected_label = dataset[int(index)]
        assert torch.equal(image, expected), f"image {index} differs"
        assert label == expected_label, f"image {index} has another label"


def batches_of(dataset: RecordDataset, order: np.ndarray, batch: int, chances: tuple) -> Callable:
    """The work of a worker, for all batches of one epoch."""
    batches = Batches(dataset, Augmentation(*chances), seed=0)

    def work() -> None:
        for start in range(0, len(order), batch):
            batches[0, order[start : start + batch], None]

    return work


def through_workers(dataset: RecordDataset, batch: int, num_workers: int) -> tuple[Callable, list[int]]:
    """The same through processes; and their ids, once they run."""
    sampler = DistributedSampler(len(dataset), batch, rank=0, world_size=1, seed=0)
    loader = FaceLoader(dataset, sampler, Augmentation(flip_prob=0.5), num_workers=num_workers)

    def work() -> None:
        loader.set_position(0)
        for _ in loader:
            pass

    work()  # starts them
    workers = loader._loader._iterator._workers
    return work, [worker.pid for worker in workers]


def processor_seconds(pids: list[int]) -> float:
    """Of this process and others, which run (Linux)."""
    others = (int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids)
    return time.process_time() + sum(others) * 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)

    with ExitStack() as stack:
        folder = args.folder or draw_records(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        dataset = RecordDataset(folder)
        num_images = min(len(dataset), 1024) // args.batch * args.batch
        order = np.random.default_rng(0).permutation(len(dataset))[:num_images]
        check_equal(dataset, order[: args.batch])
        payloads = [dataset.reader.read(dataset.keys[index])[1] for index in order]

        def imdecode() -> None:
            for payload in payloads:
                cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)

        work = {"cv2.imdecode alone": (imdecode, [], num_images)}
        for name, chances in CHANCES.items():
            work[f"batch, {name}"] = batches_of(dataset, order, args.batch, chances), [], num_images
        if args.workers:
            loop, pids = through_workers(dataset, args.batch, args.workers)
            in_epoch = len(dataset) // args.batch * args.batch
            work[f"mirrored at .5, through {args.workers} worker(s)"] = loop, pids, in_epoch
        rows = measure(work, args.rounds)
    report("loader", rows, {**vars(args), "folder": str(args.folder)})


def measure(work: dict[str, tuple[Callable, list[int], int]], rounds: int) -> list[dict]:
    """A row for each piece of work: what it does, the processes it runs in, its number of images."""
    times = {name: [] for name in work}
    for _ in range(rounds + 1):  # the first one fills the caches
        for name, (run, pids, num_images) in work.items():
            start = processor_seconds(pids)
            run()
            times[name].append((processor_seconds(pids) - start) / num_images)
    seconds = np.array([found[1:] for found in times.values()])  # (rows, rounds)
    rows = []
    for name, of_row, shares in zip(work, seconds, seconds[0] / seconds):
        rows.append(
            dict(
                work=name,
                us_per_image=float(np.median(of_row) * 1e6),
                images_per_s=float(1 / np.median(of_row)),
                share_of_imdecode=float(np.median(shares)),
                quartiles="{:.2f}–{:.2f}".format(*np.quantile(shares, [0.25, 0.75])),
            )
        )
        print_row("loader", rows[-1])
    return rows


if __name__ == "__main__":
    run_script(main)
