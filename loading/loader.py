"""Batches of a dataset: which images, in which order, prepared by which process.

Everything random is a function of (seed, epoch, index of the image) alone. So any number of ranks together
see the batches that one rank sees, the number of worker processes changes nothing, and an epoch can be
continued at any batch.
"""

import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from loading.augment import Augmentation, Changes
from loading.bad_records import BadRecords
from loading.draws import Draws
from loading.global_batch import part_of_rank
from loading.shared_images import PREFETCH, Place, Ring
from utils.faces import SIZE
from utils.killed_workers import install_translator, prepare_worker, translated
from utils.recordio import RecordError

# First numbers of the seeds: an epoch's order, the changes of an image, its replacement share no seed.
ORDER_STREAM, IMAGE_STREAM, REPLACEMENT_STREAM = 1, 2, 3
MAX_DRAWS = 100  # images that are tried in place of one that cannot be used


class DistributedSampler(Sampler):
    """Which images make up the batches of this rank.

    An epoch is a random order of all images, cut into batches of all ranks together. Of these each rank takes
    its part, see `part_of_rank`. Images at the end that fill no batch are left out of this epoch.

    Yields `(epoch, indices)`, the epoch for the random changes, indices `(b,)` int64.

    Args:
        batch_size: images of a batch (micro-batch, where a step has several) on all ranks together.

    Raises:
        ValueError: there are fewer images than one batch needs.
    """

    def __init__(self, num_images: int, batch_size: int, *, rank: int, world_size: int, seed: int):
        if num_images < batch_size:
            raise ValueError(
                f"{num_images} images do not fill one batch of {batch_size} on {world_size} rank(s): "
                "lower batch_size or global_batch"
            )
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.world_size, self.part = world_size, part_of_rank(batch_size, rank, world_size)
        self.weight = len(self.part) * world_size / batch_size
        self.epoch = self.first_batch = 0

    def set_position(self, epoch: int, first_batch: int = 0) -> None:
        """Where the next iteration begins: at a batch of an epoch, both from 0."""
        if not 0 <= first_batch <= len(self):
            raise ValueError(f"first_batch={first_batch}: an epoch has {len(self)} batches")
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        """Batches in a whole epoch, wherever the next iteration begins."""
        return self.num_images // self.batch_size

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        order = np.random.default_rng((ORDER_STREAM, self.seed, self.epoch)).permutation(self.num_images)
        for batch in range(self.first_batch, len(self)):
            start = batch * self.batch_size
            yield self.epoch, order[start + self.part.start : start + self.part.stop]


class Batches(Dataset):
    """What a worker does with `(epoch, indices, place)`: it makes a batch, at that place if there is one.

    It gives images `(b, 3, 112, 112)` uint8 RGB, or the place where they are; labels and indices as one array
    `(2, b)` int64; and a list of the indices that could not be used.

    With `skip_bad` another image takes the place of one that cannot be used; it is drawn by (seed, epoch,
    index). Without, the RecordError is returned. It is not raised, as torch would wrap it into the traceback
    of the worker.

    Args:
        places: `(places, b, 112, 112, 3)` uint8, where workers put images.
    """

    def __init__(
        self,
        dataset,
        augmentation: Augmentation,
        seed: int,
        *,
        skip_bad: bool = False,
        places: Tensor | None = None,
    ):
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed
        self.skip_bad, self.places = skip_bad, places

    def __getitem__(
        self, task: tuple[int, np.ndarray, Place | None]
    ) -> tuple[Tensor | Place, np.ndarray, list[int]] | RecordError:
        epoch, indices, place = task
        if place is not None:
            images = self.places[place.row].numpy()
        else:
            images = np.empty((len(indices), SIZE, SIZE, 3), np.uint8)
        labels, used, bad, errors = np.empty_like(indices), indices.copy(), [], []
        changes = self._changes(epoch, indices)
        for i, (image, label) in enumerate(self.dataset.read_batch(indices)):
            if isinstance(image, RecordError):
                errors.append((i, image))
            else:
                labels[i] = label
                changes[i](image, images[i])
        try:
            for i, error in errors:
                used[i], image, labels[i] = self._replacement(epoch, int(indices[i]), error, bad)
                self._changes(epoch, used[i : i + 1])[0](image, images[i])
        except RecordError as error:
            return error
        # As bytes of R, G and B in turn: the device brings them in the order that its network wants.
        result = torch.from_numpy(images).permute(0, 3, 1, 2) if place is None else place
        return result, np.stack([labels, used]), bad

    def _changes(self, epoch: int, indices: np.ndarray) -> list[Changes]:
        """What happens to each of these images in an epoch."""
        return self.augmentation.changes(Draws((IMAGE_STREAM, self.seed, epoch), indices))

    def _replacement(
        self, epoch: int, index: int, reason: RecordError, bad: list[int]
    ) -> tuple[int, np.ndarray, int]:
        """Index, image and label of what takes the place of an image that cannot be used."""
        if not self.skip_bad:
            raise reason
        bad.append(index)
        rng = np.random.default_rng((REPLACEMENT_STREAM, self.seed, epoch, index))
        for drawn in rng.integers(len(self.dataset), size=MAX_DRAWS).tolist():
            try:
                return drawn, *self.dataset.read(drawn)
            except RecordError:
                bad.append(drawn)
        raise RecordError(f"{reason}; of {MAX_DRAWS} images drawn in its place none can be used")


class Tasks(Sampler):
    """What the workers are sent: the sampler's batches, each with a free place, if there is one."""

    def __init__(self, sampler: DistributedSampler, ring: Ring | None):
        self.sampler, self.ring = sampler, ring

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, Place | None]]:
        if self.ring is not None:
            self.ring.take_back()  # torch asks for a first task when the workers have ended those of before
        for epoch, indices in self.sampler:
            yield epoch, indices, self.ring and self.ring.take()

    def __len__(self) -> int:
        return len(self.sampler)


class FaceLoader:
    """The batches of this rank from the position that was set; its workers live on between epochs.

    Yields images `(b, 3, 112, 112)` uint8 RGB, labels `(b,)` and indices `(b,)` int64, which
    `dataset.name_of` turns into names; in pinned memory where there is a GPU.

    Args:
        skip_bad: an image that cannot be used is replaced by another one; `report_bad` names and counts it.

    Attributes:
        bad_records: those that were replaced; None without `skip_bad`.

    Raises:
        RecordError: an image cannot be used, or with `skip_bad` nor can what was drawn in its place.
        WorkerKilled: a worker process was killed.
    """

    def __init__(
        self,
        dataset,
        sampler: DistributedSampler,
        augmentation: Augmentation,
        *,
        num_workers: int,
        skip_bad: bool = False,
    ):
        self.sampler = sampler
        self.bad_records = BadRecords(dataset) if skip_bad else None
        self._ring = ring = Ring(num_workers, len(sampler.part)) if num_workers else None
        self._loader = DataLoader(
            Batches(dataset, augmentation, sampler.seed, skip_bad=skip_bad, places=ring and ring.memory),
            sampler=Tasks(sampler, ring),
            batch_size=None,  # the sampler's batches are the dataset's items
            collate_fn=_as_it_is,  # torch would make tensors of arrays, which are slower to hand over
            num_workers=num_workers,
            prefetch_factor=PREFETCH if num_workers else None,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else starting workers advances the default one, which dropout uses
        )

    def set_position(self, epoch: int, first_batch: int = 0) -> None:
        """See DistributedSampler."""
        self.sampler.set_position(epoch, first_batch)

    @property
    def batch_size(self) -> int:
        """Images of a batch on all ranks together."""
        return self.sampler.batch_size

    @property
    def smallest_part(self) -> int:
        """Images of a batch on the rank that has fewest."""
        return self.sampler.batch_size // self.sampler.world_size

    @property
    def weight(self) -> float:
        """This rank's share of a batch times the number of ranks: 1 where they share evenly."""
        return self.sampler.weight

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every rank."""
        return len(self.sampler)

    def report_bad(self) -> dict[str, int]:
        """{"bad_records": number so far}, see BadRecords.report; empty where the first one ends the run."""
        return {} if self.bad_records is None else self.bad_records.report()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        try:
            batches = iter(self._loader)
            install_translator()
            for batch in batches:
                if isinstance(batch, RecordError):
                    advice = (
                        "; on_bad_record=skip takes another in its place" if self.bad_records is None else ""
                    )
                    raise RecordError(f"{batch}{advice}")
                images, numbers, bad = batch
                if isinstance(images, Place):  # there is no GPU, or torch has made it a tensor already
                    images = images.images()
                labels, indices = torch.from_numpy(numbers)
                if self.bad_records is not None:
                    self.bad_records.add(bad, len(images))
                yield images, labels, indices
        except (RuntimeError, EOFError, ConnectionError) as error:
            raise translated(error) from None


def _as_it_is(batch):
    return batch


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # one core a worker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # they reach every process; training ends its workers
    prepare_worker()
