"""Batches of a dataset: which images, in which order, prepared by which process.

Everything random is a function of (seed, epoch, index of the image) alone. So W ranks with batch b see the
global batches that one rank with batch W·b sees, the number of worker processes changes nothing, and an epoch
can be continued at any batch.
"""

import signal
import sys
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.augment import Augmentation
from utils.killed_workers import install_translator, silence_lost_connection, translated
from utils.recordio import RecordError

# First numbers of the seeds: the order of an epoch and the changes of an image never have the same seed.
ORDER_STREAM, IMAGE_STREAM = 1, 2


class DistributedSampler(Sampler):
    """Which images make up the batches of this rank.

    An epoch is a random order of all images, cut into global batches of world_size · batch_size images, of
    which rank r takes the r-th part. Images at the end that fill no global batch are left out of this epoch.

    Yields `(epoch, indices)`, the epoch for the random changes, indices `(batch_size,)` int64.

    Raises:
        ValueError: there are fewer images than one global batch needs.
    """

    def __init__(self, num_images: int, batch_size: int, *, rank: int, world_size: int, seed: int):
        self.global_batch = world_size * batch_size
        if num_images < self.global_batch:
            raise ValueError(
                f"{num_images} images do not fill one global batch of {world_size} rank(s) × {batch_size}: "
                "lower batch_size"
            )
        self.num_images, self.batch_size, self.rank, self.seed = num_images, batch_size, rank, seed
        self.epoch = self.first_batch = 0

    def set_position(self, epoch: int, first_batch: int = 0) -> None:
        """Where the next iteration begins: at a batch of an epoch, both from 0."""
        if not 0 <= first_batch <= len(self):
            raise ValueError(f"first_batch={first_batch}: an epoch has {len(self)} batches")
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        """Batches in a whole epoch, wherever the next iteration begins."""
        return self.num_images // self.global_batch

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        order = np.random.default_rng((ORDER_STREAM, self.seed, self.epoch)).permutation(self.num_images)
        for batch in range(self.first_batch, len(self)):
            start = batch * self.global_batch + self.rank * self.batch_size
            yield self.epoch, order[start : start + self.batch_size]


class Batches(Dataset):
    """What a worker does: `(epoch, indices)` -> images `(b, 3, 112, 112)` uint8 RGB, labels `(b,)` int64.

    A RecordError is returned, not raised: torch would wrap it into the traceback of the worker.
    """

    def __init__(self, dataset, augmentation: Augmentation, seed: int):
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed

    def __getitem__(
        self, position: tuple[int, np.ndarray]
    ) -> tuple[torch.Tensor, torch.Tensor] | RecordError:
        epoch, indices = position
        images = np.empty((len(indices), 3, 112, 112), np.uint8)
        labels = np.empty(len(indices), np.int64)
        for row, index in enumerate(indices.tolist()):
            try:
                image, labels[row] = self.dataset.read(index)
            except RecordError as error:
                return error
            rng = np.random.default_rng((IMAGE_STREAM, self.seed, epoch, index))
            images[row] = cv2.split(self.augmentation(image, rng))
        return torch.from_numpy(images), torch.from_numpy(labels)


class FaceLoader:
    """The batches of this rank from the position that was set; its workers live on between epochs.

    Yields images `(b, 3, 112, 112)` uint8 RGB and labels `(b,)` int64; in pinned memory where there is a GPU.

    Raises:
        RecordError: an image cannot be used; the same line that reading it in this process gives.
        WorkerKilled: a worker process was killed.
    """

    def __init__(self, dataset, sampler: DistributedSampler, augmentation: Augmentation, *, num_workers: int):
        self.sampler = sampler
        self._loader = DataLoader(
            Batches(dataset, augmentation, sampler.seed),
            sampler=sampler,
            batch_size=None,  # the sampler's batches are the dataset's items
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else starting workers advances the default one, which dropout uses
        )

    def set_position(self, epoch: int, first_batch: int = 0) -> None:
        """See DistributedSampler."""
        self.sampler.set_position(epoch, first_batch)

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every rank."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        try:
            batches = iter(self._loader)
            install_translator()
            for batch in batches:
                if isinstance(batch, RecordError):
                    raise batch
                images, labels = batch
                yield images, labels
        except (RuntimeError, EOFError, ConnectionError) as error:
            raise translated(error) from None


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # one core a worker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # they reach every process; training ends its workers
    sys.excepthook = silence_lost_connection  # of the thread that hands batches over
