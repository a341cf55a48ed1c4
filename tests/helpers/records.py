"""Small record files and image folders for the tests."""

from pathlib import Path

import cv2
import numpy as np
from easydict import EasyDict

from utils.recordio import IndexedRecordWriter

GOLDENS = Path(__file__).parents[1] / "goldens" / "recordio"


def picture(seed: int) -> np.ndarray:
    """A smooth random image, `(112, 112, 3)` uint8 RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    return cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def write_rec(folder: Path, labels: list, images: dict[int, bytes] | None = None) -> Path:
    """train.rec and train.idx without header: key i has labels[i] and picture(i), or images[i]."""
    folder.mkdir(parents=True, exist_ok=True)
    with IndexedRecordWriter(folder / "train.idx", folder / "train.rec") as records:
        for key, label in enumerate(labels):
            records.write(key, label, images[key] if images and key in images else png(picture(key)))
    return folder


def write_rec_with_header(folder: Path, labels: list[int], ranges: list[tuple[int, int]]) -> Path:
    """insightface's layout: keys 1…N with `labels`, then one identity record for each of `ranges`."""
    folder.mkdir(parents=True, exist_ok=True)
    with IndexedRecordWriter(folder / "train.idx", folder / "train.rec") as records:
        records.write(0, (len(labels) + 1, len(labels) + 1 + len(ranges)), b"")
        for key, label in enumerate(labels, start=1):
            records.write(key, label, png(picture(key)))
        for key, found in enumerate(ranges, start=len(labels) + 1):
            records.write(key, found, b"")
    return folder


def settings(**changes) -> EasyDict:
    """The settings of the data, as train_v2.py hands them over."""
    defaults = dict(rec=None, num_classes=None, num_image=None, batch_size=4, num_workers=0, seed=7)
    defaults |= dict(global_batch=None, gradient_acc=1, on_bad_record="error")
    chances = dict(flip_prob=0.5, crop_prob=0.0, low_res_prob=0.0, photometric_prob=0.0)
    return EasyDict(defaults | chances | changes)
