"""The samples and identities that a run finds hardest, for its report: the smallest cosines to the own class.

Cosines are taken at logged steps, where the run waits for the device anyway, and on this rank's own images.
Those of the newest epoch count that has seen at least half as many images as the one before it: early in
training all cosines are small, which says nothing of a sample.
"""

import base64
import heapq
import json
from pathlib import Path

import numpy as np
from torch import Tensor

from dataset import FaceDataset
from utils.recordio import RecordError

NUM_SAMPLES = 24
NUM_IDENTITIES = 6
NUM_IMAGES = 6  # of an identity
LEAST_SEEN = 3  # images of an identity, without which its mean says nothing


class HardSamples:
    """Collects cosines and norms with the indices of their images; `write` reads those images.

    Memory: 64 bytes a class and NUM_SAMPLES entries, for the newest epoch and the one before.

    Args:
        dataset: what the indices point into.
    """

    def __init__(self, dataset: FaceDataset):
        self.dataset = dataset
        self.epoch, self.now, self.before = -1, None, None

    def add(self, epoch: int, indices: Tensor, labels: Tensor, cosines: Tensor, norms: Tensor) -> None:
        """One batch of this rank, all `(b,)`: `indices` into the dataset, cosines to the own class."""
        if epoch != self.epoch or self.now is None:
            self.before = self.now if self.now and self.now.num_seen else self.before
            self.epoch, self.now = epoch, Seen(epoch, self.dataset.num_classes)
        columns = (indices, labels, cosines, norms)
        self.now.add(*(column.detach().cpu().double().numpy() for column in columns))

    def write(self, path: str | Path) -> None:
        """Write hard_samples.json: numbers, names, and the images as JPEG in base64."""
        seen = self.now
        if seen is None or (self.before is not None and seen.num_seen < self.before.num_seen / 2):
            seen = self.before
        content = {} if seen is None else self._content(seen)
        Path(path).write_text(json.dumps(content), encoding="utf-8")

    def _content(self, seen: "Seen") -> dict:
        samples = [
            {**face, "label": label, "cosine": cosine, "norm": norm}
            for cosine, index, label, norm in seen.hardest()
            if (face := self._face(index))
        ]
        identities = [
            {**about, "images": [face for index in some if (face := self._face(index))]}
            for about, some in seen.hardest_identities()
        ]
        about = {"epoch": seen.epoch, "seen": seen.num_seen}
        return about | {"samples": samples, "identities": identities}

    def _face(self, index: int) -> dict | None:
        """Name and image; None where it cannot be read."""
        from reports.page import jpeg_of  # not at the top: it brings matplotlib

        try:
            image, _ = self.dataset.read(index)
        except RecordError:
            return None
        name = self.dataset.name_of(index).rsplit("/", 1)[-1]
        return {"name": name, "image": base64.b64encode(jpeg_of(image)).decode()}


class Seen:
    """What logged steps of one epoch saw."""

    def __init__(self, epoch: int, num_classes: int):
        self.epoch, self.num_seen = epoch, 0
        self._heap: list[tuple[float, int, int, float]] = []  # of the negated cosine: the easiest on top
        self._kept: set[int] = set()
        self._sums, self._counts = np.zeros(num_classes), np.zeros(num_classes, np.int64)
        self._some = np.full((num_classes, NUM_IMAGES), -1)

    def add(self, indices: np.ndarray, labels: np.ndarray, cosines: np.ndarray, norms: np.ndarray) -> None:
        """Take in a batch, `(B,)` each: places in the data set, classes, own cosines and raw norms.

        A sample whose cosine is not finite is left out.
        """
        usable = np.isfinite(cosines)  # a step with NaN says nothing of its images
        for index, label, cosine, norm in zip(*(c[usable] for c in (indices, labels, cosines, norms))):
            index, label = int(index), int(label)
            self.num_seen += 1
            self._sums[label] += cosine
            if index not in self._some[label]:
                self._some[label, self._counts[label] % NUM_IMAGES] = index
            self._counts[label] += 1
            if index in self._kept:
                continue  # a second view of the image, or another step's: the first one stands
            entry = (-float(cosine), index, label, float(norm))
            if len(self._heap) < NUM_SAMPLES:
                heapq.heappush(self._heap, entry)
            elif entry > self._heap[0]:
                self._kept.discard(heapq.heapreplace(self._heap, entry)[1])
            else:
                continue
            self._kept.add(index)

    def hardest(self) -> list[tuple[float, int, int, float]]:
        """(cosine, index, label, norm), the smallest cosine first."""
        return [(-negated, *rest) for negated, *rest in sorted(self._heap, reverse=True)]

    def hardest_identities(self) -> list[tuple[dict, list[int]]]:
        """({label, mean cosine, images seen}, indices of some images), the smallest mean first."""
        labels = np.flatnonzero(self._counts >= LEAST_SEEN)
        means = self._sums[labels] / self._counts[labels]
        order = np.argsort(means, kind="stable")[:NUM_IDENTITIES]
        return [
            (
                {"label": int(label), "cosine": float(mean), "seen": int(self._counts[label])},
                [int(index) for index in self._some[label] if index >= 0],
            )
            for label, mean in zip(labels[order], means[order])
        ]
