"""Run by this project's Python: `write` makes images and records, `read` checks what MXNet wrote."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np
from samples import LAYOUTS, check, records

from dataset import RecordDataset
from loading.readers.base import decode
from utils.recordio import IndexedRecordReader, IndexedRecordWriter


def write(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(6):
        coarse = rng.integers(0, 256, (7, 7, 3), np.uint8)
        image = cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)
        path = folder / f"image_{i}{'.png' if i % 3 == 2 else '.jpg'}"
        cv2.imwrite(str(path), image)
        np.save(folder / f"decoded_{i}.npy", decode(path.read_bytes(), path.name))
    for layout in LAYOUTS:
        with IndexedRecordWriter(folder / f"{layout}_lqface.idx", folder / f"{layout}_lqface.rec") as file:
            for key, label, payload in records(layout, folder):
                file.write(key, label, payload)


def read(folder: Path) -> None:
    for layout in LAYOUTS:
        reader = IndexedRecordReader(folder / f"{layout}_mxnet.idx", folder / f"{layout}_mxnet.rec")

        def read_record(key, reader=reader):
            label, payload = reader.read(key)
            return label.tolist(), payload

        check(layout, folder, reader.keys.tolist(), read_record)
        first = [label if isinstance(label, float) else label[0] for _, label, _ in records(layout, folder)]
        assert reader.first_labels(reader.keys).tolist() == first, f"{layout}: labels read in bulk differ"
        for suffix in ("idx", "rec"):
            ours, theirs = (
                (folder / f"{layout}_{name}.{suffix}").read_bytes() for name in ("lqface", "mxnet")
            )
            assert ours == theirs, f"{layout}: the .{suffix} files of lqface and MXNet differ"
    print("lqface reads what MXNet writes, and writes the same bytes")

    for layout, num_classes in (("insightface", 3), ("plain", 2)):
        root = folder / layout
        root.mkdir()
        for suffix in ("idx", "rec"):
            (folder / f"{layout}_mxnet.{suffix}").rename(root / f"train.{suffix}")
        dataset = RecordDataset(root)
        assert (len(dataset), dataset.num_classes) == (6, num_classes), (len(dataset), dataset.num_classes)
        for image, label in (dataset[i] for i in range(6)):
            assert image.shape == (3, 112, 112), image.shape
            assert 0 <= label < num_classes, label


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
