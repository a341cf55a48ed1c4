"""Shared memory in which worker processes hand over images, taken once and used again and again.

torch gives each batch shared memory of its own: the system clears its pages, maps them in two processes and
takes them back, which costs half as much as decoding. Here a worker writes into the places of a ring in turn
and sends which place it was.
"""

from dataclasses import dataclass
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from utils.faces import SIZE

PREFETCH = 2  # batches that a worker prepares ahead
PLACES = PREFETCH + 1  # a worker's: the training process may still be copying the one before
_rings = WeakValueDictionary()  # by number, those of this process
_numbers = count()


class Ring:
    """Places for batches of one size, PLACES for each worker.

    Attributes:
        memory: `(num_workers * PLACES, batch_size, 112, 112, 3)` uint8, shared by all processes.

    Raises:
        OSError: there is not as much shared memory.
    """

    def __init__(self, num_workers: int, batch_size: int):
        memory = torch.empty(num_workers * PLACES, batch_size, SIZE, SIZE, 3, dtype=torch.uint8)
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
        self._next = 0

    def take(self, worker: int) -> "Place":
        """The next place of a worker; asked in that worker alone."""
        self._next = (self._next + 1) % PLACES
        return Place(self.number, worker * PLACES + self._next)


@dataclass(frozen=True)
class Place:
    """Where a batch is in a ring of the training process."""

    ring: int
    row: int

    def copied(self) -> Tensor:
        """The images `(b, 3, 112, 112)` in memory of their own; to be asked before the next batch."""
        return _rings[self.ring].memory[self.row].clone().permute(0, 3, 1, 2)

    def pin_memory(self) -> Tensor:
        """The same in pinned memory; torch's thread that pins batches asks for it as soon as one arrives."""
        return _rings[self.ring].memory[self.row].pin_memory().permute(0, 3, 1, 2)
