"""Find the cosine from which on two faces count as one person's, at false accept rates of 0.1 to a millionth.

    python tools/calibrate.py --model work_dirs/demo/model.pt --people aligned/ --out calibration.json
    python tools/calibrate.py --model face.onnx --different strangers/ --out calibration.json
    python tools/calibrate.py --model face.onnx --pairs pairs.csv --images aligned/ --out calibration.json

--people: a folder for each person, the pairs are all those of different people. --different: a folder of
images of different people, one each, that nobody has to name. --pairs: rows path1,path2,issame. Use
photographs of the place where the threshold will be used. FAR 1e-6 takes a million pairs: 1,415 people, one
image each.

Where a person has several images it also prints how many pairs of one person each threshold accepts.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from prettytable import PrettyTable

from eval.calibration import Calibration, calibrate_pairs, calibrate_set
from eval.calibration_file import write_calibration
from eval.calibration_report import in_words
from eval.readers.pair_lists import read_pairs
from tools.helpers.embedder import Embedder, Named, add_arguments, find_images
from utils.command_line import run_script
from utils.files import try_writing

MOST_PAIRS = 1_000_000  # of one person, that are looked at


def of_people(embedder: Embedder, folder: Path, seed: int) -> tuple[Calibration, np.ndarray, Named]:
    """All pairs of different people, the cosines of pairs of one person, and the embeddings."""
    paths = find_images([folder])
    people = [path.relative_to(folder).parts[0] for path in paths]
    if loose := [path for path in paths if path.parent == folder]:
        raise ValueError(f"{loose[0]} is in no person's folder: --people takes {folder}/PERSON/IMAGE")
    named = embedder.embed(paths, folder.name)
    _, ids = np.unique(people, return_inverse=True)
    return calibrate_set(named.unit, ids, seed=seed), own_cosines(named.unit, ids), named


def own_cosines(unit: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The cosines of the pairs of one person each, `(P,)`, at most MOST_PAIRS."""
    found, count = [np.empty(0)], 0
    for person in range(ids.max() + 1):
        own = unit[ids == person]
        found.append((own @ own.T)[np.triu_indices(len(own), 1)])
        count += len(found[-1])
        if count > MOST_PAIRS:
            break
    return np.concatenate(found)


def of_different(embedder: Embedder, folder: Path, seed: int) -> tuple[Calibration, np.ndarray, Named]:
    """All pairs of images, which are of different people."""
    named = embedder.embed(find_images([folder]), folder.name)
    return calibrate_set(named.unit, seed=seed), np.empty(0), named


def of_pairs(embedder: Embedder, args: argparse.Namespace) -> tuple[Calibration, np.ndarray, Named]:
    """The pairs of a list."""
    pairs = read_pairs(args.pairs, args.images)
    paths = list(dict.fromkeys(path for pair in pairs for path in pair[:2]))
    named = embedder.embed(paths, args.pairs.name)
    row = {path: index for index, path in enumerate(paths)}
    first, second = (named.unit[[row[pair[side]] for pair in pairs]] for side in (0, 1))
    cosine = np.einsum("pd,pd->p", first, second)
    same = np.array([pair[2] for pair in pairs], dtype=bool)
    return calibrate_pairs(cosine[~same], seed=args.seed), cosine[same], named


def table(found: Calibration, own: np.ndarray) -> PrettyTable:
    """A row for each rate; with pairs of one person, the share of them that is accepted."""
    columns = ["FAR", "cosine", *(["same person accepted %"] if len(own) else [])]
    rows = PrettyTable(columns, align="r")
    for far, cosine, words in zip(found.fars, found.cosine, in_words(found)):
        accepted = "" if np.isnan(cosine) else f"{100 * np.mean(own >= cosine):.2f}" if len(own) else ""
        rows.add_row([f"{far:g}", words, accepted][: len(columns)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--people", type=Path, help="folder with a folder of aligned faces for each person")
    what.add_argument("--different", type=Path, help="folder of aligned faces, each of another person")
    what.add_argument("--pairs", type=Path, help="list of pairs, as tools/make_bin.py reads it")
    add("--images", type=Path, help="folder that the names of --pairs are relative to")
    add("--out", type=Path, required=True, help="calibration.json to write")
    add("--seed", type=int, default=0, help="of the intervals (default 0)")
    args = parser.parse_args()
    if (args.pairs is None) != (args.images is None):
        raise ValueError("--pairs and --images go together: the list, and the folder of its images")
    try_writing(args.out)
    embedder = Embedder(args)
    if args.people:
        found, own, named = of_people(embedder, args.people, args.seed)
    elif args.different:
        found, own, named = of_different(embedder, args.different, args.seed)
    else:
        found, own, named = of_pairs(embedder, args)
    source = next(
        f"{name} {getattr(args, name)}" for name in ("people", "different", "pairs") if getattr(args, name)
    )
    data = {"source": source, "images": len(named.paths), "same_person_pairs": len(own), "seed": args.seed}
    write_calibration(args.out, found, embedder.made_with, named.norm, data)
    print(f"{found.pairs:,} pairs of different people from {len(named.paths):,} images")
    print(table(found, own))
    print(f"written to {args.out}")


if __name__ == "__main__":
    run_script(main)
