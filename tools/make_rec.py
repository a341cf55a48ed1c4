"""Pack a folder of aligned faces into train.rec, train.idx and property, in insightface's layout.

    python tools/make_rec.py --images faces_112x112 --out data/faces

The images are faces_112x112/<identity>/*, each 112x112, in any format that OpenCV reads. Each file is decoded
once as a check and stored unchanged. If some cannot be used, all of them are named and nothing is written;
`--skip-bad` leaves them out. Identities get numbers in the order of their names; identities.txt lists them, a
name with a backslash or control characters as Python writes them.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from dataset import FolderDataset
from eval.readers.errors import ListedError, names_in_file
from tools.record_files import pack, require_free
from utils.command_line import run_script
from utils.errors import printable
from utils.recordio import RecordError


def make_rec(images: Path, out: Path, skip_bad: bool = False) -> list[str]:
    """Write the record files; returns what was written and what was left out, in words.

    Raises:
        FileNotFoundError: no images in the folder.
        FileExistsError: there are record files already.
        ListedError: images that cannot be decoded or have another size, unless `skip_bad` leaves them out.
        RecordError: none is left.
    """
    faces = FolderDataset(images)
    require_free(out)
    good, faults = check(faces)
    if faults and not skip_bad:
        raise ListedError(f"{images}: images that cannot be used (--skip-bad leaves them out):", faults)
    if not good:
        raise RecordError(f"{images}: none of its {len(faces)} images can be used: {faults[0]}")
    present, labels = np.unique(faces.labels()[good], return_inverse=True)
    pack(out, labels, len(present), lambda i: faces.path(good[i]).read_bytes())
    lines = (f"{label}\t{printable(faces.identities[i])}\n" for label, i in enumerate(present))
    (out / "identities.txt").write_text("".join(lines), encoding="utf-8")
    left_out = [*faces.left_out, *([f"{len(faults)} bad images: {'; '.join(faults)}"] if faults else [])]
    return [f"{len(good)} images of {len(present)} identities", *(f"left out: {text}" for text in left_out)]


def check(faces: FolderDataset) -> tuple[list[int], list[str]]:
    """Decode every image: which can be used, and what is wrong with the others."""
    good, faults = [], []
    for index in tqdm(range(len(faces)), unit="img", disable=None):
        try:
            faces.read(index)
            good.append(index)
        except RecordError as fault:
            faults.append(str(fault))
    return good, faults


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder with one sub-folder per identity")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--skip-bad", action="store_true", help="leave out images that cannot be used, and name them")
    arguments = parser.parse_args()
    with names_in_file(Path(f"{arguments.out}.faulty.txt")):
        done = make_rec(arguments.images, arguments.out, arguments.skip_bad)
    print(f"{arguments.out}: " + "\n  ".join(done))


if __name__ == "__main__":
    run_script(main)
