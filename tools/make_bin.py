"""Pack an image folder and a list of pairs into a `.bin` verification set.

    python tools/make_bin.py --images lfw_112x112 --pairs pairs.txt --out lfw.bin
    python tools/make_bin.py --images faces --pairs pairs.csv --out faces.bin
    python tools/make_bin.py --images lfw-deepfunneled --pairs pairs.txt --out lfw.bin --crop 54 44 194 184

Two kinds of list. `*.csv` has rows `path1,path2,issame` (1/0 or true/false; a first row with these three
names is skipped), paths relative to the image folder. Any other file is in LFW's format: a first line of
counts, then `name n m` for images n and m of one person, or `name n other m` for two people. Image 7 of a
person is name/name_0007.jpg (or .jpeg, .png).

Verification cuts a set into ten folds of consecutive pairs. So if a tenth of the list holds pairs of one kind
only, as when all pairs of one person come first, both kinds are interleaved; `--keep-order` leaves the list
as it is.

Images must be aligned faces, 112x112: their files are stored as they are. `--crop` cuts a fixed square out of
each image instead, for collections that are aligned by other means, and stores it at 112x112 as JPEG.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from eval.folds import fold_of_each, mixed_order
from eval.readers.bin_sets import save_bin
from eval.readers.pair_lists import Pair, read_pairs
from utils.command_line import run_script
from utils.faces import ALIGNED, SIZE, decode_rgb
from utils.files import try_writing

JPEG_QUALITY = 95
NUM_FOLDS = 10  # of eval/verification.py


def encoded_image(path: Path, crop: list[int] | None) -> bytes:
    """The file's own bytes if it is a 112x112 image, or its crop (left, top, right, bottom) as JPEG.

    Raises:
        FileNotFoundError: no such image.
        ValueError: not an image, not 112x112, or a crop that is no square inside it.
    """
    data = path.read_bytes()
    try:
        image = decode_rgb(data)
    except ValueError as fault:
        raise ValueError(f"{path}: {fault}") from fault
    height, width = image.shape[:2]
    if crop is None:
        if (height, width) != (SIZE, SIZE):
            raise ValueError(
                f"{path} is {width}x{height}, expected {ALIGNED} "
                "(or --crop LEFT TOP RIGHT BOTTOM, to cut one out of each image)"
            )
        return data
    left, top, right, bottom = crop
    if not (0 <= left < right <= width and 0 <= top < bottom <= height and right - left == bottom - top):
        raise ValueError(
            f"--crop {left} {top} {right} {bottom} is no square inside {path}, which is {width}x{height}"
        )
    side = (SIZE, SIZE)
    face = cv2.resize(image[top:bottom, left:right], side, interpolation=cv2.INTER_AREA)
    face = cv2.cvtColor(face, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def sorted_by_kind(pairs: list[Pair]) -> bool:
    """Whether some tenth of the list holds pairs of one kind only, though there are ten of both or more."""
    same = np.array([same for _, _, same in pairs])
    if min(same.sum(), (~same).sum()) < NUM_FOLDS:
        return False
    kinds = np.unique(2 * fold_of_each(len(same), NUM_FOLDS) + same)
    return len(kinds) < 2 * NUM_FOLDS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder that the list's names are relative to")
    add("--pairs", type=Path, required=True, help="list of pairs: *.csv, or LFW's pairs.txt")
    add("--out", type=Path, required=True, help=".bin file to write")
    add(
        "--crop",
        type=int,
        nargs=4,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="square to cut out, pixels",
    )
    add("--keep-order", action="store_true", help="of the list, even if it is sorted by kind")
    args = parser.parse_args()
    try_writing(args.out)
    pairs = read_pairs(args.pairs, args.images)
    is_sorted = sorted_by_kind(pairs)
    if is_sorted and not args.keep_order:
        pairs = [pairs[i] for i in mixed_order(np.array([same for _, _, same in pairs]))]
    encoded = {}  # an image that occurs in several pairs is read, and stored, once
    for path in (path for pair in pairs for path in pair[:2]):
        if path not in encoded:
            encoded[path] = encoded_image(path, args.crop)
    issame = [same for _, _, same in pairs]
    save_bin(args.out, [encoded[path] for pair in pairs for path in pair[:2]], issame)
    note = ""
    if is_sorted and args.keep_order:
        note = "; warning: folds hold one kind of pair only, so that accuracies will be wrong"
    elif is_sorted:
        note = "; the list is sorted by kind, so its pairs were interleaved (--keep-order leaves it as it is)"
    counts = f"{len(pairs)} pairs, {sum(issame)} of the same person, {len(encoded)} different images"
    print(f"{args.out}: {counts}{note}")


if __name__ == "__main__":
    run_script(main)
