"""IJB-B and IJB-C: verification of 8 or 16 million template pairs, identification in two galleries.

    python eval/eval_ijb.py --model r100.pth --network r100 --data /data/ijb
    python eval/eval_ijb.py --model adaface.ckpt --data /data/ijb --only IJBC --convention adaface cvlface

C. Whitelam et al., IARPA Janus Benchmark-B Face Dataset, CVPRW 2017. B. Maze et al., IARPA Janus Benchmark-C:
Face Dataset and Protocol, ICB 2018.

Tree: DATA/IJBB/{loose_crop,meta}, DATA/IJBC/{loose_crop,meta} or one of them, see ijb/data.py. The crops are
aligned here, by the five landmarks of the lists.

A network gets other numbers under other conventions; each number stands beside its own. F1: the features of
image and mirrored image are summed. N1: the norm of that sum is kept, and weighs the images of a template.
D1: the detector's score weighs them too. `insightface` is N1D1F1 (its own scripts print N1D1F2), `adaface`
N1D0F1, `cvlface` N0D1F1. Definitions and ties: see ijb/protocol.py. ±: 95 % interval over subjects drawn with
replacement; 1:N with the thresholds as they are, and both galleries taken as independent.
"""

import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prettytable import PrettyTable

from eval.figures import cmc_figure, det_figure, roc_figure
from eval.ijb.data import GALLERIES, IJB, find, load_ijb
from eval.ijb.protocol import (
    CMC_RANKS,
    CONVENTIONS,
    FARS,
    FPIRS,
    RANKS,
    build_templates,
    convention_of,
    identify,
    verify,
)
from eval.readers.faces import CroppedFaces
from eval.report import Report, in_percent
from eval.run import arguments, evaluation, list_faults_in_file
from utils.command_line import run_script

NOTES = [
    """F1: the features of image and mirrored image are summed (F0: that of the image alone); N1: the norm of
    the sum weighs the images of a template (N0: all weigh the same); D1: so does the detector's score.""",
    """legacy: both galleries as one, FPIR a share of pairs, as insightface's ijb_1n.py and AdaFace print it;
    probe: each gallery by itself, FPIR a share of the probes whom it does not know, as NIST defines it. No
    number of one can be compared with one of the other.""",
    """± half the 95 % interval over subjects drawn with replacement. too few pairs: fewer than 1 / FAR are of
    different people, so that no threshold has this rate.""",
]


def add_to(report: Report, ijb: IJB, found: Mapping[str, dict]) -> None:
    """Tables, numbers and pictures of one benchmark.

    Args:
        found: convention, as printed -> what `verify` and `identify` return, under "1:1" and "1:N".
    """
    verification = PrettyTable(["convention", *(f"{far:.0e}" for far in FARS), "AUC %"], align="r")
    identification = PrettyTable(
        [
            "convention",
            "definition",
            *(f"rank-{k} %" for k in RANKS),
            *(f"TPIR % @FPIR={f:g}" for f in FPIRS),
        ],
        align="r",
    )
    for name, both in found.items():
        one = both["1:1"]
        rates = in_percent(one["tar"], one["tar_interval"])
        tars = [rate if enough else "too few pairs" for rate, enough in zip(rates, one["enough_pairs"])]
        verification.add_row([name, *tars, f"{100 * one['auc']:.4f}"])
        for definition, many in both["1:N"].items():
            rates = (in_percent(many[rate], many[f"{rate}_interval"]) for rate in ("rank", "tpir"))
            identification.add_row([name, definition, *chain(*rates)])
    report.table(verification, f"{ijb.name} 1:1, TAR % at FAR, of {len(ijb.same):,} pairs")
    report.table(identification, f"{ijb.name} 1:N, of {len(ijb.probes.templates):,} probes")
    rocs = {name: both["1:1"].pop("roc") for name, both in found.items()}
    open_set = {name: both["1:N"]["probe"].pop("open_set") for name, both in found.items()}
    cmcs = {
        f"{name}, {definition}": (CMC_RANKS, many["cmc"])
        for name, both in found.items()
        for definition, many in both["1:N"].items()
    }
    report.numbers(ijb.name, found)
    stem = ijb.name.lower()
    report.picture(f"{stem}_roc", roc_figure(rocs, f"{ijb.name} 1:1"), f"{ijb.name}, accepted pairs")
    report.picture(f"{stem}_det", det_figure(rocs, f"{ijb.name} 1:1"), f"{ijb.name}, both errors")
    figure = det_figure(open_set, f"{ijb.name} 1:N, probe", "FPIR", "1 − TPIR")
    report.picture(f"{stem}_open_set", figure, f"{ijb.name}, open-set identification, mean of both galleries")
    report.picture(
        f"{stem}_cmc", cmc_figure(cmcs, f"{ijb.name} 1:N"), f"{ijb.name}, found within so many ranks"
    )


def main() -> None:
    parser = arguments(__doc__, data="folder that holds IJBB/, IJBC/ or both")
    parser.add_argument("--only", choices=GALLERIES, help="one of the two; default: what is there")
    parser.add_argument(
        "--convention",
        nargs="+",
        default=["insightface"],
        help=f"{', '.join(CONVENTIONS)}, or switches such as N1D0F1; several are several rows",
    )
    args = parser.parse_args()
    conventions = {name: convention_of(name) for name in args.convention}
    titles = {name: name if name == str(c) else f"{name} {c}" for name, c in conventions.items()}
    with list_faults_in_file(args, "ijb"):
        benchmarks = [load_ijb(args.data, name) for name in ([args.only] if args.only else find(args.data))]
        crops = [CroppedFaces(ijb.paths, ijb.landmarks) for ijb in benchmarks]

    with evaluation(args, "ijb", "IJB-B and IJB-C") as run:
        run.report.settings |= {
            "conventions": [*titles.values()],
            "interval": f"95 %, bootstrap over subjects, seed {args.seed}",
        }
        mirror = any(convention.flip_sum for convention in conventions.values())
        for ijb, faces in zip(benchmarks, crops):
            plain, flip = run.features(faces, mirror=mirror)
            if run.is_main:
                found = {}
                for name, convention in conventions.items():
                    templates = build_templates(ijb, plain, flip, convention)
                    numbers = {
                        "1:1": verify(ijb, templates, args.seed),
                        "1:N": identify(ijb, templates, args.seed),
                    }
                    found[titles[name]] = numbers
                add_to(run.report, ijb, found)
        if run.is_main:
            for text in NOTES:
                run.report.note(text)
            run.report.write(run.out)


if __name__ == "__main__":
    run_script(main)
