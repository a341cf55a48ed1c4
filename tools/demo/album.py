"""The photographs of the trees: requested one by one, then drawn on several processes, as JPEG files."""

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
ORIGINAL_SIDE = 24  # pixels, width and height of a small original


@dataclass(frozen=True)
class Request:
    """One photograph to draw.

    Attributes:
        path: the file to write.
        degradation: how bad the camera is, from 0 to 1; see `photograph`.
        loose: a loose crop (see `loose_crop`), not an aligned face.
        original: a second file to write: a copy of ORIGINAL_SIDE pixels, for the image before alignment.
    """

    path: Path
    degradation: float
    loose: bool = False
    original: Path | None = None


class Album:
    """All requests, by person. A photograph follows from the seed, the person and its number among that
    person's requests; it does not matter in which order the people are drawn.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.requests: dict[int, list[Request]] = defaultdict(list)

    def add(self, person: int, request: Request) -> None:
        self.requests[person].append(request)

    def draw(self, map_tasks: Callable) -> dict[Path, np.ndarray]:
        """Writes all files. Returns the landmarks (5, 2) of the loose crops, by path.

        map_tasks: the `map` of worker_map().
        """
        requests = [request for person in self.requests.values() for request in person]
        for folder in {path.parent for r in requests for path in (r.path, r.original) if path}:
            folder.mkdir(parents=True, exist_ok=True)
        landmarks = {}
        for of_person in map_tasks(functools.partial(_draw_person, self.seed), self.requests.items()):
            landmarks |= of_person
        return landmarks


def _draw_person(seed: int, task: tuple[int, list[Request]]) -> dict[Path, np.ndarray]:
    person, requests = task
    cv2.setNumThreads(1)  # the workers already use all cores
    head, landmarks = Head(Identity(np.random.default_rng([seed, person]))), {}
    for number, request in enumerate(requests):
        rng = np.random.default_rng([seed, person, ALBUM, number])
        if request.loose:
            image, landmarks[request.path] = loose_crop(head, rng, request.degradation)
        else:
            image = photograph(head, rng, request.degradation)
        request.path.write_bytes(jpeg(image))
        if request.original:
            small = cv2.resize(image, (ORIGINAL_SIDE, ORIGINAL_SIDE), interpolation=cv2.INTER_AREA)
            request.original.write_bytes(jpeg(small))
    return landmarks


def jpeg(image: np.ndarray) -> bytes:
    """An RGB image as a JPEG file."""
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


@contextmanager
def worker_map(workers: int) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """A `map` that runs on `workers` processes and keeps the order; the processes end with the block."""
    if workers == 1:
        yield map
        return
    # Ctrl-C reaches the workers too. They ignore it: the parent process ends them.
    ignore_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(workers, ignore_ctrl_c) as pool:
        yield pool.imap
