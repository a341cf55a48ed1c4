"""Photographs as JPEG files: ordered by path, then taken person by person, on several processes."""

import functools
import multiprocessing
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tools.demo.head import Head
from tools.demo.people import Identity
from tools.demo.photo import loose_crop, photograph

ALBUM = 3  # the purpose of these photographs in their seeds, see tools/make_demo.py
JPEG_QUALITY = 92
FEW = 24  # pixels of such a copy


@dataclass(frozen=True)
class Order:
    """One photograph: where it goes, how bad it is (see `photograph`), whether it is a loose crop, and
    where a copy of few pixels goes, as the camera had it before alignment.
    """

    path: Path
    badness: float
    loose: bool = False
    original: Path | None = None


class Album:
    """What is to be photographed, in any order of people; it depends on the seed alone."""

    def __init__(self, seed: int):
        self.seed = seed
        self.orders: dict[int, list[Order]] = defaultdict(list)

    def add(self, person: int, *order, **settings) -> None:
        """Orders one photograph of a person; arguments: see Order."""
        self.orders[person].append(Order(*order, **settings))

    def take(self, draw: Callable) -> dict[Path, np.ndarray]:
        """Writes all files by a map of painters(). Returns the landmarks (5, 2) of the loose crops."""
        orders = [order for person in self.orders.values() for order in person]
        for folder in {path.parent for order in orders for path in (order.path, order.original) if path}:
            folder.mkdir(parents=True, exist_ok=True)
        landmarks = {}
        for found in draw(functools.partial(_take, self.seed), self.orders.items()):
            landmarks |= found
        return landmarks


def _take(seed: int, task: tuple[int, list[Order]]) -> dict[Path, np.ndarray]:
    person, orders = task
    cv2.setNumThreads(1)  # the workers share the cores already
    head, landmarks = Head(Identity(np.random.default_rng([seed, person]))), {}
    for number, order in enumerate(orders):
        rng = np.random.default_rng([seed, person, ALBUM, number])
        if order.loose:
            image, landmarks[order.path] = loose_crop(head, rng, order.badness)
        else:
            image = photograph(head, rng, order.badness)
        order.path.write_bytes(jpeg(image))
        if order.original:
            order.original.write_bytes(jpeg(cv2.resize(image, (FEW, FEW), interpolation=cv2.INTER_AREA)))
    return landmarks


def jpeg(image: np.ndarray) -> bytes:
    """An RGB image as a JPEG file."""
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


@contextmanager
def painters(workers: int) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """A `map` that keeps the order and works on so many processes; they end with the block."""
    if workers == 1:
        yield map
        return
    ignore_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the parent ends them
    with multiprocessing.get_context("spawn").Pool(workers, ignore_ctrl_c) as pool:
        yield pool.imap
