"""Pack an image folder and a list of pairs into a `.bin` verification set.

    python tools/make_bin.py --images lfw_112x112 --pairs pairs.txt --out lfw.bin
    python tools/make_bin.py --images faces --pairs pairs.csv --out faces.bin
    python tools/make_bin.py --images lfw-deepfunneled --pairs pairs.txt --out lfw.bin --crop 54 44 194 184

Two kinds of list. `*.csv` has rows `path1,path2,issame` (1/0 or true/false; a first row with these three
names is skipped), paths relative to the image folder. Any other file is in LFW's format: a first line of
counts, then `name n m` for images n and m of one person, or `name n other m` for two people. Image 7 of a
person is name/name_0007.jpg (or .jpeg, .png).

Images must be aligned faces, 112x112: their files are stored as they are. `--crop` cuts a fixed square out of
each image instead, for collections that are aligned by other means, and stores it at 112x112 as JPEG.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2

from eval.readers.bin_sets import save_bin
from eval.readers.pair_lists import read_pairs
from utils.command_line import run_script
from utils.faces import ALIGNED, SIZE, decode_rgb

JPEG_QUALITY = 95


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
    args = parser.parse_args()
    pairs = read_pairs(args.pairs, args.images)
    encoded = {}  # an image that occurs in several pairs is read, and stored, once
    for path in (path for pair in pairs for path in pair[:2]):
        if path not in encoded:
            encoded[path] = encoded_image(path, args.crop)
    issame = [same for _, _, same in pairs]
    save_bin(args.out, [encoded[path] for pair in pairs for path in pair[:2]], issame)
    print(
        f"{args.out}: {len(pairs)} pairs, {sum(issame)} of the same person, {len(encoded)} different images"
    )


if __name__ == "__main__":
    run_script(main)
