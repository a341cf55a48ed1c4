"""Make the demo data: photographs of people who do not exist, to train on and to verify with.

    python tools/make_demo.py --out data/demo
    python tools/make_demo.py --out /tmp/tiny --identities 40 --images-per-identity 12 --pairs 100

Writes train.rec, train.idx and property in insightface's layout; demo_hq.bin and demo_lq.bin, photographs of
high and low quality of people that training never sees; the small trees that tools/demo/trees.py lists, in
the layouts of published benchmarks, of other people again; contact_sheet.png, to look at; and settings.json.
Where settings.json says that the same data exist already, nothing is done. The files depend on the settings
alone, not on the number of workers.
"""

import argparse
import functools
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from eval.readers.bin_sets import save_bin
from tools.demo.album import jpeg, worker_map
from tools.demo.head import Head
from tools.demo.people import Identity
from tools.demo.photo import photograph
from tools.demo.trees import TREES, write_trees
from utils.command_line import run_script
from utils.faces import SIZE
from utils.files import write_json
from utils.recordio import IndexedRecordWriter

# The purpose of a photograph: number n of a person has the seed (seed, person, purpose, n). 3 is album.ALBUM.
TRAIN, GOOD, BAD = range(3)
VERIFICATION_SETS = {"demo_hq": GOOD, "demo_lq": BAD}
FIRST_UNSEEN = 10_000_000  # people from this number on are for verification
FIRST_IN_TREES = 20_000_000  # people from this number on are for the trees
BAD_SHARE = 0.35  # of the training images
FOLDS = 10  # consecutive tenths of the pairs, in verification
Task = tuple[int, dict[int, int]]  # a person, and how many photographs for each purpose


def draw_degradation(purpose: int, rng: np.random.Generator) -> float:
    """A random degradation for photograph()."""
    good = purpose == GOOD or (purpose == TRAIN and rng.random() > BAD_SHARE)
    return rng.uniform(0, 0.1) if good else rng.uniform(0.1 if purpose == TRAIN else 0.5, 1)


def photographs(task: Task, seed: int) -> dict[int, list[np.ndarray]]:
    """Photographs of one person, RGB; the head is drawn once for all of them."""
    person, counts = task
    cv2.setNumThreads(1)  # the workers already use all cores
    head = Head(Identity(np.random.default_rng([seed, person])))
    images = {purpose: [] for purpose in counts}
    for purpose, count in counts.items():
        for number in range(count):
            rng = np.random.default_rng([seed, person, purpose, number])
            images[purpose].append(photograph(head, rng, draw_degradation(purpose, rng)))
    return images


def jpeg_photographs(task: Task, seed: int) -> dict[int, list[bytes]]:
    """The same as JPEG files."""
    return {purpose: list(map(jpeg, images)) for purpose, images in photographs(task, seed).items()}


def write_training_set(out: Path, seed: int, num_people: int, num_images: int, map_tasks: Callable) -> None:
    """Keys 1…N: images, person by person. Key 0 and the keys after N: insightface's header records.

    map_tasks: see album.worker_map, here and below.
    """
    tasks = [(person, {TRAIN: num_images}) for person in range(num_people)]
    people = map_tasks(functools.partial(jpeg_photographs, seed=seed), tasks)
    with IndexedRecordWriter(out / "train.idx", out / "train.rec") as records:
        key, ranges = 1, []
        for label, photos in enumerate(people):
            images = photos[TRAIN]
            ranges.append((key, key + len(images)))
            for image in images:
                records.write(key, label, image)
                key += 1
        for person, first_and_end in enumerate(ranges):
            records.write(key + person, first_and_end, b"")
        records.write(0, (key, key + len(ranges)), b"")
    (out / "property").write_text(f"{len(ranges)},{SIZE},{SIZE}\n")


def draw_pairs(rng: np.random.Generator, num_pairs: int, num_people: int) -> np.ndarray:
    """Who is on the two photographs of each pair, (P, 2). Pairs of one person and of two people alternate."""
    first = np.arange(num_pairs) // 2 % num_people
    other = (first + rng.integers(1, num_people, num_pairs)) % num_people
    return np.stack([first, np.where(np.arange(num_pairs) % 2, other, first)], axis=1)


def write_verification_sets(out: Path, seed: int, num_pairs: int, map_tasks: Callable) -> None:
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
    people = list(map_tasks(functools.partial(jpeg_photographs, seed=seed), tasks))
    for name, purpose in VERIFICATION_SETS.items():
        unused = [iter(images[purpose]) for images in people]
        who = pairs[purpose]
        save_bin(out / f"{name}.bin", [next(unused[i]) for i in who.ravel()], who[:, 0] == who[:, 1])


def write_contact_sheet(out: Path, seed: int, num_people: int) -> None:
    """A row for each of the first people of the training set: five good photographs and three bad ones, which
    are not among the training images.
    """
    rows = [photographs((person, {GOOD: 5, BAD: 3}), seed) for person in range(num_people)]
    sheet = np.vstack([np.hstack(row[GOOD] + row[BAD]) for row in rows])
    cv2.imwrite(str(out / "contact_sheet.png"), sheet[:, :, ::-1])


def fingerprint() -> str:
    """A hash of the code that draws: data of another version are made again."""
    root = Path(__file__).resolve().parents[1]
    sources = [Path(__file__), root / "utils" / "faces.py", *sorted((root / "tools" / "demo").glob("*.py"))]
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
    """Fill the folder `out`. Returns False, and does nothing, where the same data are in it already.

    Raises:
        ValueError: a size out of range, or a folder with data that are not from this script.
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
    settings |= {"drawn_by": fingerprint(), "trees": list(TREES)}
    card = out / "settings.json"
    found = json.loads(card.read_text()) if card.is_file() else {}
    if found == {**settings, "complete": True}:
        return False
    own = found.get("trees", []) + ["train.rec"] * ("drawn_by" in found)
    for name in ("train.rec", *TREES):
        if (out / name).exists() and name not in own:
            raise ValueError(f"{out} holds {name} that is not from this script; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(card, {**settings, "complete": False})  # if this is interrupted, the next call starts again
    for name in TREES:  # a file that an earlier call left there would count as part of the new tree
        if (out / name).exists():
            shutil.rmtree(out / name)
    num_in_trees = max(8, 12 * pairs // 100)
    with worker_map(workers) as map_tasks:
        write_training_set(out, seed, identities, images_per_identity, map_tasks)
        write_verification_sets(out, seed, pairs, map_tasks)
        write_trees(out, range(FIRST_IN_TREES, FIRST_IN_TREES + num_in_trees), seed, map_tasks)
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
    add("--pairs", type=int, default=default["pairs"], help="in each verification set; trees grow with it")
    add("--seed", type=int, default=default["seed"])
    add("--workers", type=int, default=os.cpu_count(), help="processes that draw")
    args = parser.parse_args()
    start = time.perf_counter()
    if make_demo(**vars(args)):
        made = f"{args.identities} people x {args.images_per_identity} images, 2 sets of {args.pairs} pairs"
        seconds = time.perf_counter() - start
        print(f"{args.out}: {made}, {len(TREES)} trees, {seconds:.1f} s; look at contact_sheet.png")
    else:
        print(f"{args.out}: made already")


if __name__ == "__main__":
    run_script(main)
