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
N1D0F1, `cvlface` N0D1F1. Rates, ties and intervals: see ijb/protocol.py.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prettytable import PrettyTable

from eval.calibration import Calibration
from eval.calibration_report import report_calibrations
from eval.figures import cmc_figure, det_figure, roc_figure
from eval.ijb.data import GALLERIES, IJB, find, load_ijb
from eval.ijb.protocol import (
    CMC_RANKS,
    CONVENTIONS,
    FARS,
    FPIRS,
    RANKS,
    Convention,
    Identification,
    Verification,
    build_templates,
    convention_of,
    identify,
    verify,
)
from eval.readers.faces import CroppedFaces
from eval.report import Report, in_percent, numbers_of
from eval.run import Evaluation, arguments, evaluation, list_faults_in_file
from utils.command_line import run_script

NOTES = [
    """F1: the features of image and mirrored image are summed (F0: that of the image alone); N1: the norm of
    the sum weighs the images of a template (N0: all weigh the same); D1: so does the detector's score.""",
    """legacy: both galleries as one, FPIR a share of pairs, as insightface's ijb_1n.py and AdaFace print it;
    probe: each gallery by itself, FPIR a share of the probes whom it does not know, as NIST defines it. No
    number of one can be compared with one of the other.""",
    """± half the 95 % interval over subjects drawn with replacement. too few pairs or probes: fewer than
    1 / rate are of different people, or of nobody in the gallery, so that no threshold has this rate.""",
]
# Convention, as printed -> 1:1, 1:N (None where its lists are not there).
Results = Mapping[str, tuple[Verification, Identification | None]]


def evaluate_benchmark(
    run: Evaluation, ijb: IJB, crops: CroppedFaces, conventions: Mapping[str, Convention]
) -> dict[str, Calibration]:
    """Run the network on one benchmark, on every rank; rank 0 reports the numbers of every convention.

    Args:
        conventions: name, as printed -> convention.
    Returns:
        Benchmark and convention -> cosines at FAR; nothing on other ranks.
    """
    mirror = any(convention.flip_sum for convention in conventions.values())
    plain, flip = run.features(crops, mirror=mirror)
    if not run.is_main:
        return {}
    results = {}
    for name, convention in conventions.items():
        templates = build_templates(ijb, plain, flip, convention)
        many = identify(ijb, templates, run.args.seed) if ijb.probes else None
        results[name] = verify(ijb, templates, run.args.seed), many
    report_tables(run.report, ijb, results)
    numbers = {name: {"1:1": numbers_of(one)} for name, (one, _) in results.items()}
    for name, (_, many) in results.items():
        numbers[name] |= {"1:N": numbers_of(many)} if many else {}
    run.report.numbers(ijb.name, numbers)
    report_curves(run.report, ijb.name, results)
    return {f"{ijb.name} {name}": one.calibration for name, (one, _) in results.items()}


def report_tables(report: Report, ijb: IJB, results: Results) -> None:
    """A row for each convention, and for each definition of 1:N."""
    verification = PrettyTable(["convention", *(f"{far:.0e}" for far in FARS), "AUC %"], align="r")
    ranks, tpirs = (f"rank-{k} %" for k in RANKS), (f"TPIR % @FPIR={fpir:g}" for fpir in FPIRS)
    identification = PrettyTable(["convention", "definition", *ranks, *tpirs], align="r")
    for name, (one, many) in results.items():
        tars = in_percent(one.tar, one.tar_interval, one.enough_pairs)
        report.keep_outcomes(one.outcomes, f"{ijb.name} {name} 1:1")
        verification.add_row([name, *tars, f"{100 * one.auc:.4f}"])
        for definition, of in (("legacy", many.legacy), ("probe", many.probe)) if many else ():
            report.keep_outcomes(of.outcomes, f"{ijb.name} {name} 1:N {definition}")
            tpirs = in_percent(of.tpir, of.tpir_interval, of.enough_probes, "probes")
            identification.add_row([name, definition, *in_percent(of.rank, of.rank_interval), *tpirs])
    report.table(verification, f"{ijb.name} 1:1, TAR % at FAR, of {len(ijb.same):,} pairs")
    if ijb.probes:
        report.table(identification, f"{ijb.name} 1:N, of {len(ijb.probes.templates):,} probes")
    else:
        report.note(f"{ijb.name} 1:N is left out: its lists {ijb.name.lower()}_1N_*.csv are not there.")


def report_curves(report: Report, benchmark: str, results: Results) -> None:
    """A picture for each kind of curve, with a line for each convention."""
    stem, one_to_one, one_to_many = benchmark.lower(), f"{benchmark} 1:1", f"{benchmark} 1:N"
    rocs = {name: one.curve for name, (one, _) in results.items()}
    report.picture(f"{stem}_roc", roc_figure(rocs, one_to_one), f"{benchmark}, accepted pairs")
    report.picture(f"{stem}_det", det_figure(rocs, one_to_one), f"{benchmark}, both errors")
    if any(many is None for _, many in results.values()):
        return
    open_sets = {name: many.curve for name, (_, many) in results.items()}
    figure = det_figure(open_sets, f"{one_to_many}, probe", "FPIR", "1 − TPIR")
    caption = f"{benchmark}, open-set identification, mean of both galleries"
    report.picture(f"{stem}_open_set", figure, caption)
    cmcs = {
        f"{name}, {definition}": (CMC_RANKS, of.cmc)
        for name, (_, many) in results.items()
        for definition, of in (("legacy", many.legacy), ("probe", many.probe))
    }
    figure = cmc_figure(cmcs, one_to_many)
    report.picture(f"{stem}_cmc", figure, f"{benchmark}, found within so many ranks")


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
    conventions = {}
    for name in args.convention:
        convention = convention_of(name)
        conventions[name if name == str(convention) else f"{name} {convention}"] = convention
    with list_faults_in_file(args, "ijb"):
        benchmarks = [load_ijb(args.data, name) for name in ([args.only] if args.only else find(args.data))]
        crops = [CroppedFaces(ijb.paths, ijb.landmarks) for ijb in benchmarks]

    with evaluation(args, "ijb", "IJB-B and IJB-C") as run:
        run.report.settings |= {
            "conventions": [*conventions],
            "interval": f"95 %, bootstrap over subjects, seed {args.seed}",
        }
        calibrations = {}
        for ijb, faces in zip(benchmarks, crops):
            calibrations |= evaluate_benchmark(run, ijb, faces, conventions)
        if not run.is_main:
            return
        report_calibrations(run.report, calibrations)
        for text in NOTES:
            run.report.note(text)
        run.write_report()


if __name__ == "__main__":
    run_script(main)
