"""Write the images of a rec in random order, for programs that read it from its beginning to its end.

    python tools/shuffle_rec.py --rec data/faces --out data/faces_shuffled

train_v2.py needs this not: it reads in a random order of its own. Labels, images and names stay as they are;
the ranges of identities, which hold for a rec that is sorted by identity, are left out. The same --seed gives
the same order.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tools.helpers.record_files import require_free, whole_rec, write_rec
from tools.helpers.record_sources import copied, open_rec
from utils.command_line import run_script


def shuffle_rec(rec: Path, out: Path, seed: int = 0) -> str:
    """Write the shuffled files; returns what was written, in words."""
    require_free(out)
    source = open_rec(rec)
    order = np.random.default_rng(seed).permutation(len(source))
    which = np.stack([np.zeros_like(order), order], axis=1)
    with whole_rec(out) as folder:
        content = copied([source], which, source.labels[order], source.identities)
        write_rec(folder, content, grouped=False)
    return f"{out}: {len(source):,} images of {len(source.identities):,} identities, in random order"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rec", type=Path, required=True, help="folder with train.rec and train.idx, or a .rec file")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--seed", type=int, default=0, help="of the order (default 0)")
    arguments = parser.parse_args()
    print(shuffle_rec(arguments.rec, arguments.out, arguments.seed))


if __name__ == "__main__":
    run_script(main)
