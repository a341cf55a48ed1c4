"""Do two aligned faces show the same person? Their cosine, and a decision at a false accept rate.

    python tools/verify.py --model work_dirs/demo/model.pt a.jpg b.jpg
    python tools/verify.py --model work_dirs/demo/model.pt a.jpg b.jpg --calibration calibration.json

The decision takes a calibration file of the same model (tools/calibrate.py). At --far 1e-3, the default,
one in a thousand pairs of different people, of those that it was made of, is accepted. norm: a short one
speaks of a bad image.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.helpers.embedder import Embedder, add_arguments, add_decision, decision_rule
from utils.command_line import run_script


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    add_decision(parser)
    parser.add_argument("images", type=Path, nargs=2, metavar="IMAGE", help="112x112, aligned")
    args = parser.parse_args()
    embedder = Embedder(args)
    threshold, calibration = decision_rule(args, embedder)
    named = embedder.embed(args.images, args.model.name)
    short = calibration.get("norms")
    for path, norm in zip(named.paths, named.norm):
        is_short = short and norm < short["norm"]
        remark = f", shorter than of {100 - 100 * short['share']:g} % there: a bad image?" if is_short else ""
        print(f"norm {norm:.4g}{remark}  {path}")
    cosine = float(named.unit[0] @ named.unit[1])
    print(f"cosine {cosine:.4f}")
    if threshold is None:
        print("no decision without --calibration: tools/calibrate.py makes it")
        return
    answer = "the same person" if cosine >= threshold.cosine else "different people"
    at = f"threshold {threshold.cosine:.4f} ± {threshold.interval:.4f} at FAR {threshold.far:g}"
    print(f"{answer}  ({at}, of {calibration['pairs']:,} pairs)")


if __name__ == "__main__":
    run_script(main)
