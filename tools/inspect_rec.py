"""Print what is in a train.rec (counts, classes, sizes), draw some of it, time how one core prepares it.

    python tools/inspect_rec.py data/faces
    python tools/inspect_rec.py data/faces --sheet faces.png --rows 8 --columns 12
    python tools/inspect_rec.py data/faces --speed
    python tools/inspect_rec.py data/damaged --repair data/clean

Labels are read for all images, size and format for images at even distances. A row of the sheet is a class.
The speed is for one core, in processor time, which other work on the machine hardly changes; num_workers
processes run at the same time. `--repair` copies every image that can be used, with its label, and counts the
others by reason; it needs no .idx.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from prettytable import PrettyTable

from dataset import RecordDataset
from loading.augment import Augmentation
from loading.loader import Batches
from tools.helpers.record_files import repair
from utils.command_line import run_script
from utils.faces import SIZE, decode_rgb
from utils.files import try_writing

NUM_SAMPLES = 1000
FORMATS = {b"\xff\xd8": "JPEG", b"\x89P": "PNG"}  # by their first two bytes
GAP, MARGIN = 2, 64  # pixels: between the images, left of them for the label


def _spread(total: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, count).astype(np.int64))


def _range(values: np.ndarray) -> str:
    return f"{values.min():,} / {np.median(values):,.0f} / {values.max():,}"


def _size(encoded: bytes) -> str:
    """Width and height of an encoded image."""
    try:
        height, width = decode_rgb(encoded).shape[:2]
    except ValueError:
        return "undecodable"
    return f"{width}×{height}"


def describe(dataset: RecordDataset) -> list[tuple[str, str]]:
    """The rows of the table: name and value."""
    counts = np.bincount(dataset.labels(), minlength=dataset.num_classes)
    sample = [dataset.reader.read(dataset.keys[i]) for i in _spread(len(dataset), NUM_SAMPLES)]
    formats = [FORMATS.get(encoded[:2], "other") for _, encoded in sample]
    sizes = [_size(encoded) for _, encoded in sample]
    shares = [
        ", ".join(f"{found.count(name) / len(found):.1%} {name}" for name in sorted(set(found)))
        for found in (formats, sizes, [str(len(label)) for label, _ in sample])
    ]
    has_header = len(dataset.reader) > len(dataset)
    return [
        ("file", f"{dataset.reader.rec_path} ({dataset.reader.rec_path.stat().st_size / 2**20:,.1f} MiB)"),
        ("layout", "insightface's header and identities" if has_header else "images only"),
        ("records", f"{len(dataset.reader):,}"),
        ("images", f"{len(dataset):,}"),
        ("classes", f"{dataset.num_classes:,}"),
        ("classes without image", f"{np.count_nonzero(counts == 0):,}"),
        ("images per class (least / median / most)", _range(counts)),
        (f"bytes per image ({len(sample)} looked at)", _range(np.array([len(data) for _, data in sample]))),
        ("formats", shares[0]),
        ("width × height", shares[1]),
        ("labels per record", shares[2]),
    ]


def contact_sheet(dataset: RecordDataset, rows: int, columns: int) -> np.ndarray:
    """RGB picture of up to `rows` classes with images, at even distances: up to `columns` images of each."""
    labels = dataset.labels()
    order = np.argsort(labels, kind="stable")
    present, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    chosen = _spread(len(present), rows)
    step = SIZE + GAP
    sheet = np.full((len(chosen) * step - GAP, MARGIN + columns * step - GAP, 3), 255, np.uint8)
    for row, i in enumerate(chosen):
        top = row * step
        cv2.putText(sheet, str(present[i]), (4, top + SIZE // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0))
        for column, index in enumerate(order[starts[i] : starts[i] + min(columns, counts[i])]):
            left = MARGIN + column * step
            sheet[top : top + SIZE, left : left + SIZE] = dataset.read(index)[0]
    return sheet


def speed(dataset: RecordDataset) -> list[tuple[str, str]]:
    """Processor time per image of the work of a loader: the median of 9 rounds over up to 500 images."""
    cv2.setNumThreads(0)
    chosen = _spread(len(dataset), 500)

    def batch(*chances):
        batches = Batches(dataset, Augmentation(*chances), seed=0)
        return lambda: batches[0, chosen, None]

    stages = {
        "read a record": lambda: [dataset.reader.read(dataset.keys[i]) for i in chosen],
        "read and decode": lambda: [dataset.read(i) for i in chosen],
        "a batch, mirrored at .5": batch(0, 0, 0, 0.5),
        "the same, every AdaFace change at .2": batch(0.2, 0.2, 0.2, 0.5),
        "the same, every AdaFace change at 1": batch(1, 1, 1, 0.5),
    }
    rows = []
    for name, stage in stages.items():
        stage()  # fills the caches
        times = []
        for _ in range(9):
            start = time.process_time()
            stage()
            times.append((time.process_time() - start) / len(chosen))
        seconds = float(np.median(times))
        rows.append((name, f"{seconds * 1e6:,.0f} µs an image, {1 / seconds:,.0f} images/s a core"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with train.rec and train.idx")
    parser.add_argument("--sheet", type=Path, help="PNG to draw")
    parser.add_argument("--rows", type=int, default=8, help="classes on the sheet (default 8)")
    parser.add_argument("--columns", type=int, default=10, help="images of each at most (default 10)")
    parser.add_argument("--speed", action="store_true", help="time reading, decoding and augmentation")
    parser.add_argument("--repair", type=Path, metavar="OUT", help="write a clean copy to this folder")
    arguments = parser.parse_args()
    if arguments.repair:
        print(f"{arguments.repair}: " + "\n  ".join(repair(arguments.folder, arguments.repair)))
        return
    if min(arguments.rows, arguments.columns) < 1:
        raise ValueError("--rows and --columns have to be at least 1")
    dataset = RecordDataset(arguments.folder)
    if arguments.sheet:
        try_writing(arguments.sheet)
    table = PrettyTable(["what", "value"], align="l", header=False)
    table.add_rows(describe(dataset) + (speed(dataset) if arguments.speed else []))
    print(table)
    if arguments.sheet:
        sheet = contact_sheet(dataset, arguments.rows, arguments.columns)
        _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        arguments.sheet.write_bytes(png.tobytes())
        print(f"wrote {arguments.sheet}")


if __name__ == "__main__":
    run_script(main)
