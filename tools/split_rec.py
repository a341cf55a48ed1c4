"""Split a rec by identity: each person is in one part alone.

    python tools/split_rec.py --rec data/faces --out data/train data/held_out --shares 0.9 0.1
    python tools/split_rec.py --rec data/faces --out data/small --identities 1000
    python tools/split_rec.py --rec data/faces --out data/held_out data/train --identities 100  # and others

Which people go where is drawn by --seed. In each part they are numbered from 0, in the order they had;
identities.txt keeps their names, or, where there are none, the labels they had. --dry-run only counts.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tools.helpers.record_files import require_free, whole_rec, write_rec
from tools.helpers.record_sources import Source, copied, open_rec
from utils.command_line import run_script


def counts_of_shares(shares: Sequence[float], total: int) -> list[int]:
    """Identities of each part: the ends of the parts are rounded, so shares of 1 in sum leave nobody out.

    Raises:
        ValueError: a share is not above 0, or they are more than 1 together.
    """
    if min(shares) <= 0 or sum(shares) > 1 + 1e-9:
        raise ValueError(f"--shares {' '.join(map(str, shares))}: each is above 0, and together at most 1")
    ends = np.rint(np.cumsum([0, *shares]) * total).astype(int)
    return np.diff(ends).tolist()


def split_rec(
    source: Source, outs: Sequence[Path], counts: Sequence[int], seed: int, dry_run: bool
) -> list[str]:
    """Write the parts; returns what each has, in words.

    Args:
        counts: identities of each part.
    Raises:
        ValueError: a part would be empty, or there are not so many identities.
    """
    present = np.unique(source.labels)
    if len(outs) != len(counts):
        raise ValueError(
            f"{len(outs)} folder(s) after --out, but {len(counts)} number(s) of how many people they get: "
            "expected as many, or one number less, where the last folder gets all others"
        )
    if min(counts) < 1 or sum(counts) > len(present):
        wanted = " + ".join(map(str, counts))
        raise ValueError(f"{wanted} identities out of {len(present):,} that have images: each part needs one")
    if len({out.resolve() for out in outs}) < len(outs):
        raise ValueError("--out names a folder twice")
    for out in outs:
        require_free(out)
    drawn = np.random.default_rng(seed).permutation(present)
    done, ends = [], np.cumsum([0, *counts])
    for out, start, end in zip(outs, ends, ends[1:]):
        people = np.sort(drawn[start:end])
        images = np.flatnonzero(np.isin(source.labels, people))
        images = images[np.argsort(source.labels[images], kind="stable")]
        if not dry_run:
            labels = np.searchsorted(people, source.labels[images])
            which = np.stack([np.zeros_like(images), images], axis=1)
            names = [source.identities[person] for person in people]
            with whole_rec(out) as folder:
                write_rec(folder, copied([source], which, labels, names))
        done.append(f"{out}: {len(images):,} images of {len(people):,} identities")
    if left := len(present) - sum(counts):
        done.append(f"{left:,} identities are in no part")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rec", type=Path, required=True, help="folder with train.rec and train.idx, or a .rec file")
    add("--out", type=Path, nargs="+", required=True, help="a folder for each part")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--shares",
        type=float,
        nargs="+",
        help="of the identities, one for each part; the last may be left out",
    )
    size.add_argument(
        "--identities", type=int, nargs="+", help="how many, for each part; the last may be left out"
    )
    add("--seed", type=int, default=0, help="of the draw (default 0)")
    add("--dry-run", action="store_true", help="say what would be written, and write nothing")
    arguments = parser.parse_args()
    source = open_rec(arguments.rec)
    total = len(np.unique(source.labels))
    counts = arguments.identities or counts_of_shares(arguments.shares, total)
    if len(arguments.out) == len(counts) + 1:
        counts = [*counts, total - sum(counts)]
    done = split_rec(source, arguments.out, counts, arguments.seed, arguments.dry_run)
    print("\n".join([*(["nothing is written:"] if arguments.dry_run else []), *done]))


if __name__ == "__main__":
    run_script(main)
