"""Search aligned faces in a gallery: the entries that look most like each probe.

    python tools/search.py --model work_dirs/demo/model.pt --gallery people/ --probes found/ --out matches.csv
    python tools/search.py --model face.onnx --gallery gallery.npz --probes a.jpg --top 3

Gallery and probes are images, folders, or a file of tools/embed.py. Entries come by falling cosine, equal
ones in the order of the gallery. With --calibration only those above the threshold are named. The threshold
is that of one pair: among G strangers about G times as many are accepted, so choose --far for the gallery's
size.
"""

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from prettytable import PrettyTable

from eval.identification import top_k
from tools.helpers.embedder import Embedder, Named, add_arguments, add_decision, decision_rule
from utils.command_line import run_script
from utils.files import whole_file

NUM_SHOWN = 20  # probes on the screen


def write_matches(path: Path, rows: list[list]) -> None:
    """A row a match: probe, its norm, rank, gallery entry, cosine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["probe", "norm", "rank", "match", "cosine"], *rows])


def matches(probes: Named, gallery: Named, top: int, threshold: float) -> list[list]:
    """Rows for `write_matches`; a probe without a match has one with rank 0."""
    scores, entries = top_k(probes.unit, gallery.unit, top)
    rows = []
    for path, norm, cosines, indices in zip(probes.paths, probes.norm, scores, entries):
        head = [path, f"{norm:.4f}"]
        found = [(gallery.paths[i], f"{c:.4f}") for i, c in zip(indices, cosines) if c >= threshold]
        rows += [[*head, rank, *match] for rank, match in enumerate(found, start=1)] or [[*head, 0, "", ""]]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    add_decision(parser)
    add = parser.add_argument
    add("--gallery", type=Path, nargs="+", required=True, help="images, folders, or an .npz of embed.py")
    add("--probes", type=Path, nargs="+", required=True, help="the same")
    add("--top", type=int, default=5, help="entries for each probe, at most (default 5)")
    add("--out", type=Path, help=".csv file to write")
    args = parser.parse_args()
    if args.top < 1:
        raise ValueError(f"--top is {args.top}, allowed: 1 or more")
    embedder = Embedder(args)
    threshold, _ = decision_rule(args, embedder)
    gallery = embedder.read(args.gallery, "gallery")
    probes = embedder.read(args.probes, "probes")
    least = -np.inf if threshold is None else threshold.cosine
    rows = matches(probes, gallery, args.top, least)
    if args.out:
        write_matches(args.out, rows)
    shown = set(probes.paths[:NUM_SHOWN])
    table = PrettyTable(["probe", "norm", "rank", "match", "cosine"], align="l")
    table.add_rows([row for row in rows if row[0] in shown])
    print(table)
    if threshold is not None:
        found = len({row[0] for row in rows if row[2]})
        said = f"cosine ≥ {least:.4f}, FAR {threshold.far:g} for one pair"
        print(f"{found} of {len(probes.paths)} probes have a match ({said})")
    if len(probes.paths) > NUM_SHOWN:
        print(
            f"the first {NUM_SHOWN} of {len(probes.paths)} probes" + ("" if args.out else "; --out has all")
        )
    if args.out:
        print(f"written to {args.out}")


if __name__ == "__main__":
    run_script(main)
