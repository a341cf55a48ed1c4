"""Shared memory in which worker processes hand over images, taken once and used again and again.

torch gives each batch shared memory of its own: the system clears its pages, maps them in two processes and
takes them back, which costs half as much as decoding. Here the training process sends a worker, with the
indices of a batch, the number of a free place, and gets that place itself as the batch, without a copy. The
place is free again when the batch and all that was cut from it are gone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from weakref import WeakValueDictionary, ref

import torch
from torch import Tensor

from utils.faces import SIZE

PREFETCH = 2  # batches that a worker prepares ahead
IN_USE = 2  # batches: the one that the training process works on, and the one that it gets before it lets go
_rings = WeakValueDictionary()  # by number, those of this process
_numbers = count()


class Ring:
    """Places for batches of one size: PREFETCH for each worker and IN_USE more.

    Attributes:
        memory: `(num_workers * PREFETCH + IN_USE, batch_size, 112, 112, 3)` uint8, shared by all processes.

    Raises:
        OSError: there is not as much shared memory.
    """

    def __init__(self, num_workers: int, batch_size: int):
        num_places = num_workers * PREFETCH + IN_USE
        memory = torch.empty(num_places, batch_size, SIZE, SIZE, 3, dtype=torch.uint8)
        try:
            self.memory = memory.share_memory_()
        except RuntimeError as error:
            raise OSError(
                f"{num_workers} workers with batches of {batch_size} images need {memory.nbytes >> 20} MiB "
                "of shared memory (/dev/shm): enlarge it (of a container: --shm-size=8g), or take fewer "
                f"num_workers; num_workers=0 needs none ({str(error).splitlines()[0]})"
            ) from None
        self.number = next(_numbers)
        _rings[self.number] = self
        self._array = self.memory.numpy()
        self._users: list[Callable] = [_nobody] * num_places  # what uses a place, or None

    def take(self) -> "Place | None":
        """A free place for a worker; None where the training process keeps so many batches that none is."""
        for row, user in enumerate(self._users):
            if user() is None:
                self._users[row] = _worker
                return Place(self.number, row)
        return None

    def take_back(self) -> None:
        """Free the places of batches that nobody fetched. To be asked when no worker works."""
        self._users = [_nobody if user is _worker else user for user in self._users]

    def batch(self, row: int) -> Tensor:
        """The images at a place, `(b, 112, 112, 3)`; it is free when nothing refers to their memory."""
        images = self._array[row]  # an array of its own, which torch keeps as long as this memory is in use
        self._users[row] = ref(images)
        return torch.from_numpy(images)


@dataclass(frozen=True)
class Place:
    """Where a batch is in a ring of the training process."""

    ring: int
    row: int

    def images(self) -> Tensor:
        """The images `(b, 3, 112, 112)`, in the shared memory."""
        return _rings[self.ring].batch(self.row).permute(0, 3, 1, 2)

    def pin_memory(self) -> Tensor:
        """A copy in pinned memory; torch's thread that pins batches asks for it as soon as one arrives."""
        return _rings[self.ring].batch(self.row).pin_memory().permute(0, 3, 1, 2)


def _nobody() -> None:
    """Uses a place that is free."""


def _worker() -> bool:
    """Uses a place that a worker writes to, or has written to."""
    return True
