"""Pack a folder of aligned faces into train.rec, train.idx and property, in insightface's layout.

    python tools/make_rec.py --images faces_112x112 --out data/faces

The images are faces_112x112/<identity>/*.jpg, .jpeg or .png, each 112x112. Each file is decoded once as a
check and stored unchanged. Identities get numbers in the order of their names; identities.txt lists them.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from dataset import FolderDataset
from utils.command_line import run_script
from utils.recordio import IndexedRecordWriter


def make_rec(images: Path, out: Path) -> tuple[int, int]:
    """Write the record files; returns the numbers of images and of identities.

    Raises:
        FileNotFoundError: no images in the folder.
        FileExistsError: there are record files already.
        RecordError: an image that cannot be decoded, or has another size.
    """
    faces = FolderDataset(images)
    names = ("train.rec", "train.idx", "property", "identities.txt")
    for path in (out / name for name in names):
        if path.exists():
            raise FileExistsError(f"{path} exists already: remove it, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with IndexedRecordWriter(out / "train.idx", out / "train.rec") as records:
        # Keys: 0 the header, 1…N the images, N+1…N+C the ranges [first, last + 1) of the identities' keys.
        records.write(0, (len(faces) + 1, len(faces) + 1 + faces.num_classes), b"")
        for index in tqdm(range(len(faces)), unit="img", disable=None):
            _, label = faces.read(index)  # raises an error if the image is damaged
            records.write(1 + index, label, faces.path(index).read_bytes())
        ends = 1 + np.cumsum(np.bincount(faces.labels()))
        for label, (first, end) in enumerate(zip([1, *ends[:-1]], ends)):
            records.write(len(faces) + 1 + label, (first, end), b"")
    (out / "property").write_text(f"{faces.num_classes},112,112\n")
    lines = (f"{label}\t{name}\n" for label, name in enumerate(faces.identities))
    (out / "identities.txt").write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    return len(faces), faces.num_classes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder with one sub-folder per identity")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    num_images, num_identities = make_rec(arguments.images, arguments.out)
    print(f"{arguments.out}: {num_images} images of {num_identities} identities")


if __name__ == "__main__":
    run_script(main)
