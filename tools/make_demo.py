"""Make the demo data: photographs of people who do not exist, to train on and to verify with.

    python tools/make_demo.py --out data/demo
    python tools/make_demo.py --out /tmp/tiny --identities 40 --images-per-identity 12 --pairs 100

Writes train.rec, train.idx and property in insightface's layout; demo_hq.bin and demo_lq.bin, good and bad
photographs of people that training never sees; contact_sheet.png, to look at; and settings.json. Where
settings.json says that the same has been made already, nothing is done. The images depend on the settings
alone, not on the number of workers.
"""

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from eval.bin_format import save_bin
from utils.command_line import run_script
from utils.demo.head import Head
from utils.demo.people import Identity
from utils.demo.photo import SIZE, photograph
from utils.files import write_json
from utils.recordio import IndexedRecordWriter

TRAIN, GOOD, BAD = range(3)  # what photographs are for; photograph n has the seed (seed, person, purpose, n)
VERIFICATION_SETS = {"demo_hq": GOOD, "demo_lq": BAD}
FIRST_UNSEEN = 10_000_000  # people from this number on are for verification
BAD_SHARE = 0.35  # of the training images
FOLDS = 10  # consecutive tenths of the pairs, in verification
JPEG_QUALITY = 92
Task = tuple[int, dict[int, int]]  # a person, and how many photographs for each purpose


def draw_badness(purpose: int, rng: np.random.Generator) -> float:
    """How bad the camera is, see photograph()."""
    good = purpose == GOOD or (purpose == TRAIN and rng.random() > BAD_SHARE)
    return rng.uniform(0, 0.1) if good else rng.uniform(0.1 if purpose == TRAIN else 0.5, 1)


def photographs(task: Task, seed: int) -> dict[int, list[np.ndarray]]:
    """Photographs of one person, RGB; the head is drawn once for all of them."""
    person, counts = task
    cv2.setNumThreads(1)  # the workers share the cores already
    head = Head(Identity(np.random.default_rng([seed, person])))
    images = {purpose: [] for purpose in counts}
    for purpose, count in counts.items():
        for number in range(count):
            rng = np.random.default_rng([seed, person, purpose, number])
            images[purpose].append(photograph(head, rng, draw_badness(purpose, rng)))
    return images


def jpeg_photographs(task: Task, seed: int) -> dict[int, list[bytes]]:
    """The same as JPEG files."""

    def encode(image):
        return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()

    return {purpose: list(map(encode, images)) for purpose, images in photographs(task, seed).items()}


def photograph_all(tasks: list[Task], seed: int, workers: int) -> Iterator[dict[int, list[bytes]]]:
    """jpeg_photographs() of each task, in order."""
    work = functools.partial(jpeg_photographs, seed=seed)
    if workers == 1:
        yield from map(work, tasks)
        return
    ignore_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the parent ends them
    with multiprocessing.get_context("spawn").Pool(workers, ignore_ctrl_c) as pool:
        yield from pool.imap(work, tasks, chunksize=4)


def write_training_set(out: Path, people: Iterable[list[bytes]]) -> None:
    """Keys 1…N: images, person by person. Key 0 and those from N+1 on: insightface's header records."""
    with IndexedRecordWriter(out / "train.idx", out / "train.rec") as records:
        key, ranges = 1, []
        for label, images in enumerate(people):
            ranges.append((key, key + len(images)))
            for image in images:
                records.write(key, label, image)
                key += 1
        for person, first_and_end in enumerate(ranges):
            records.write(key + person, first_and_end, b"")
        records.write(0, (key, key + len(ranges)), b"")
    (out / "property").write_text(f"{len(ranges)},{SIZE},{SIZE}\n")


def draw_pairs(rng: np.random.Generator, num_pairs: int, num_people: int) -> np.ndarray:
    """Who is on the two photographs of each pair, (P, 2): one person and two people in turn, in any fold."""
    first = np.arange(num_pairs) // 2 % num_people
    other = (first + rng.integers(1, num_people, num_pairs)) % num_people
    return np.stack([first, np.where(np.arange(num_pairs) % 2, other, first)], axis=1)


def write_verification_sets(out: Path, seed: int, num_pairs: int, workers: int) -> None:
    """The same people in all sets, different pairs, and no photograph twice."""
    num_people = max(2, num_pairs // 5)
    pairs = {
        purpose: draw_pairs(np.random.default_rng([seed, purpose]), num_pairs, num_people)
        for purpose in VERIFICATION_SETS.values()
    }
    counts = {
        purpose: np.bincount(who.ravel(), minlength=num_people).tolist() for purpose, who in pairs.items()
    }
    tasks = [
        (FIRST_UNSEEN + i, {purpose: counts[purpose][i] for purpose in pairs}) for i in range(num_people)
    ]
    people = list(photograph_all(tasks, seed, workers))
    for name, purpose in VERIFICATION_SETS.items():
        unused = [iter(images[purpose]) for images in people]
        who = pairs[purpose]
        save_bin(out / f"{name}.bin", [next(unused[i]) for i in who.ravel()], who[:, 0] == who[:, 1])


def write_contact_sheet(out: Path, seed: int, num_people: int) -> None:
    """A row a person of the training set: five good photographs, three bad ones, none of them trained on."""
    rows = [photographs((person, {GOOD: 5, BAD: 3}), seed) for person in range(num_people)]
    sheet = np.vstack([np.hstack(row[GOOD] + row[BAD]) for row in rows])
    cv2.imwrite(str(out / "contact_sheet.png"), sheet[:, :, ::-1])


def fingerprint() -> str:
    """Of the code that draws: data made by another version are made again."""
    root = Path(__file__).resolve().parents[1]
    sources = [Path(__file__), *sorted((root / "utils" / "demo").glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def make_demo(
    out: Path,
    *,
    identities: int = 500,
    images_per_identity: int = 16,
    pairs: int = 600,
    seed: int = 1,
    workers: int = 1,
) -> bool:
    """Fill the folder `out`. Returns False where it holds just this already.

    Raises:
        ValueError: sizes that make no sense, or a folder with a training set of another origin.
    """
    settings = dict(identities=identities, images_per_identity=images_per_identity, pairs=pairs, seed=seed)
    least = {"identities": 2, "images_per_identity": 1, "seed": 0, "workers": 1}
    for name, value in {**settings, "workers": workers}.items():
        if value < least.get(name, value):
            raise ValueError(f"{name}={value}: allowed is {least[name]} or more")
    if pairs < 2 * FOLDS or pairs % (2 * FOLDS):
        raise ValueError(
            f"pairs={pairs}: allowed are multiples of {2 * FOLDS}, so that in each of the {FOLDS} folds "
            "half of the pairs are of one person"
        )
    settings["drawn_by"] = fingerprint()
    card = out / "settings.json"
    found = json.loads(card.read_text()) if card.is_file() else {}
    if found == {**settings, "complete": True}:
        return False
    if (out / "train.rec").exists() and "drawn_by" not in found:
        raise ValueError(f"{out} holds a train.rec that is not from this script; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(card, {**settings, "complete": False})  # if this is interrupted, the next call starts again
    tasks = [(person, {TRAIN: images_per_identity}) for person in range(identities)]
    write_training_set(out, (images[TRAIN] for images in photograph_all(tasks, seed, workers)))
    write_verification_sets(out, seed, pairs, workers)
    write_contact_sheet(out, seed, num_people=min(identities, 12))
    write_json(card, {**settings, "complete": True})
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, default = parser.add_argument, make_demo.__kwdefaults__
    add("--out", type=Path, required=True, help="folder to fill")
    add("--identities", type=int, default=default["identities"], help="people to train on")
    add("--images-per-identity", type=int, default=default["images_per_identity"])
    add("--pairs", type=int, default=default["pairs"], help="pairs in each verification set")
    add("--seed", type=int, default=default["seed"])
    add("--workers", type=int, default=os.cpu_count(), help="processes that draw")
    args = parser.parse_args()
    start = time.perf_counter()
    if make_demo(**vars(args)):
        made = f"{args.identities} people x {args.images_per_identity} images, 2 sets of {args.pairs} pairs"
        print(f"{args.out}: {made}, {time.perf_counter() - start:.1f} s; look at contact_sheet.png")
    else:
        print(f"{args.out}: made already")


if __name__ == "__main__":
    run_script(main)
