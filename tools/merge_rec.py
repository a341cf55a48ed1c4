"""Merge recs into one: the labels of each begin where those of the one before end.

    python tools/merge_rec.py --rec data/faces data/more_faces --out data/all

A person who is in several of them stays several people. train_v2.py also takes the list itself, as
rec=[data/faces,data/more_faces], without a copy.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tools.helpers.record_files import require_free, whole_rec, write_rec
from tools.helpers.record_sources import copied, open_rec
from utils.command_line import run_script


def merge_rec(recs: Sequence[Path], out: Path) -> str:
    """Write the merged files; returns what was written, in words."""
    require_free(out)
    sources = [open_rec(rec) for rec in recs]
    firsts = accumulate((source.data.num_classes for source in sources), initial=0)
    labels = np.concatenate([source.labels + first for source, first in zip(sources, firsts)])
    which = np.concatenate(
        [np.stack([np.full(len(s), number), np.arange(len(s))], axis=1) for number, s in enumerate(sources)]
    )
    order = np.argsort(labels, kind="stable")
    names = [name for source in sources for name in source.identities]
    with whole_rec(out) as folder:
        write_rec(folder, copied(sources, which[order], labels[order], names))
    return f"{out}: {len(labels):,} images of {len(names):,} identities, of {len(sources)} recs"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rec", type=Path, nargs="+", required=True, help="folders with train.rec and train.idx")
    add("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    print(merge_rec(arguments.rec, arguments.out))


if __name__ == "__main__":
    run_script(main)
