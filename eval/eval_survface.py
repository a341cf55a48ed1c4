"""QMUL-SurvFace: surveillance faces; verification of pairs, and open-set identification.

    python eval/eval_survface.py --model r100.pth --network r100 --data /data/survface
    python eval/eval_survface.py --model adaface.ckpt --data /data/survface --aligned my_alignment

Z. Cheng, X. Zhu, S. Gong, Surveillance Face Recognition Challenge, 2018, https://arxiv.org/abs/1804.09691

Tree: DATA/QMUL-SurvFace/Face_{Verification,Identification}_Test_Set as published; 112x112 faces in
DATA/surv_ver_origin/verification_images and DATA/surv_align/{gallery,mated_probe,unmated_probe}, matched by
stem. Half of the tree may be missing: the other half is evaluated, and the report says so.

Feature = unit(f(x) + f(mirrored x)), in the colour order that the network was trained on. Thresholds, rates,
ties and intervals: see survface/protocol.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from prettytable import PrettyTable

from eval.calibration_report import report_calibrations
from eval.figures import cmc_figure, det_figure, roc_figure
from eval.readers.faces import AlignedFaces
from eval.report import Report, in_percent, numbers_of
from eval.run import Evaluation, arguments, evaluation, list_faults_in_file
from eval.survface.data import ALIGNED, VERIFICATION_IMAGES, Pairs, Probes, read_tree
from eval.survface.protocol import (
    CMC_RANKS,
    FARS,
    FPIRS,
    NUM_FOLDS,
    RANKS,
    TPIR_RANK,
    PairResult,
    ProbeResult,
    evaluate_pairs,
    evaluate_probes,
)
from eval.templates import fuse
from utils.command_line import run_script

INTERVALS = f"""Rates ± half the 95 % interval over people drawn with replacement; accuracy ± the standard
deviation over the {NUM_FOLDS} folds. too few: fewer than 1 / rate are of different people, or unmated."""


def unit_features(run: Evaluation, faces: AlignedFaces) -> np.ndarray:
    """`(N, D)` float32, rows of length 1: the sum of a face and its mirror image."""
    plain, flip = run.features(faces)
    return fuse(plain, flip, keep_norm=False)


def verify(run: Evaluation, pairs: Pairs, faces: AlignedFaces) -> None:
    """Run the network on the images of the pairs, on every rank; rank 0 reports."""
    unit = unit_features(run, faces)
    if not run.is_main:
        return
    views = unit[pairs.first], unit[pairs.second]
    result = evaluate_pairs(*views, pairs.same, pairs.people, run.args.seed)
    report_pairs(run.report, run.models[0].name, pairs, result)
    report_calibrations(run.report, {"SurvFace": result.calibration})


def identify(run: Evaluation, probes: Probes, faces: AlignedFaces) -> None:
    """Run the network on gallery and probes, on every rank; rank 0 reports."""
    unit = unit_features(run, faces)
    if not run.is_main:
        return
    parts = np.split(unit, np.cumsum([len(probes.gallery_ids), len(probes.mated_ids)]))
    result = evaluate_probes(*parts, probes.gallery_ids, probes.mated_ids, run.args.seed)
    report_probes(run.report, run.models[0].name, probes, result)


def report_pairs(report: Report, name: str, pairs: Pairs, result: PairResult) -> None:
    """Table, numbers and pictures of the verification; `name`: the curve's, in the pictures."""
    num_positive = int(pairs.same.sum())
    sizes = {"images": len(pairs.paths), "positive": num_positive, "negative": len(pairs.same) - num_positive}
    table = PrettyTable(
        [*sizes, *(f"@FAR={far:g}" for far in FARS), "AUC %", "accuracy %, ± fold std"], align="r"
    )
    shares = in_percent(result.tpr, result.interval, FARS * sizes["negative"] >= 1)
    accuracy = in_percent([result.accuracy], [result.std])
    table.add_row([*sizes.values(), *shares, f"{100 * result.auc:.2f}", *accuracy])
    report.table(table, "SurvFace, verification: TPR in percent at FAR")
    report.keep_outcomes(result.outcomes)
    accuracy = {"accuracy": result.accuracy, "std": result.std}
    report.numbers("verification", sizes | {"far_target": FARS} | numbers_of(result) | accuracy)
    curves, title = {name: result.curve}, "SurvFace, verification"
    report.picture("roc", roc_figure(curves, title), "Verification, accepted pairs")
    report.picture("det", det_figure(curves, title), "Verification, both errors")


def report_probes(report: Report, name: str, probes: Probes, result: ProbeResult) -> None:
    """Tables, numbers and pictures of the identification."""
    sizes = {"gallery": len(probes.gallery_ids), "mated": len(probes.mated_ids)}
    sizes["unmated"] = probes.num_unmated
    table = PrettyTable([*sizes, *(f"@FPIR={fpir:g}" for fpir in FPIRS)], align="r")
    enough = FPIRS * probes.num_unmated >= 1
    table.add_row([*sizes.values(), *in_percent(result.tpir, result.tpir_interval, enough, "probes")])
    report.table(table, f"SurvFace, open-set identification: TPIR{TPIR_RANK} in percent at FPIR")
    table = PrettyTable([f"rank-{rank} %" for rank in RANKS], align="r")
    table.add_row(in_percent(result.rate, result.rate_interval))
    report.table(table, "SurvFace, closed-set identification of the mated probes")
    report.keep_outcomes(result.outcomes)
    targets = {"lists": probes.lists, "fpir_target": FPIRS, "tpir_rank": TPIR_RANK, "ranks": RANKS}
    report.numbers("identification", sizes | targets | numbers_of(result))
    title, error = "SurvFace, open-set identification", f"1 − TPIR{TPIR_RANK}"
    figure = det_figure({name: result.curve}, title, "FPIR", error)
    report.picture("open_set", figure, "Open-set identification")
    figure = cmc_figure({name: (CMC_RANKS, result.cmc)}, "SurvFace, mated probes")
    report.picture("cmc", figure, "Identified within so many ranks")


def main() -> None:
    parser = arguments(__doc__, data="folder that holds QMUL-SurvFace/ as published")
    add = parser.add_argument
    add("--verification-images", type=Path, help=f"112x112 faces; default: DATA/{VERIFICATION_IMAGES}")
    add("--aligned", type=Path, help=f"112x112 gallery and probes, three folders; default: DATA/{ALIGNED}")
    args = parser.parse_args()
    with list_faults_in_file(args, "survface"):
        pairs, probes, missing = read_tree(args.data, args.verification_images, args.aligned)
        pair_faces, probe_faces = (half and AlignedFaces(half.paths) for half in (pairs, probes))

    with evaluation(args, "survface", "QMUL-SurvFace") as run:
        run.report.settings |= {
            "verification_images": args.verification_images or args.data / VERIFICATION_IMAGES,
            "aligned": args.aligned or args.data / ALIGNED,
            "features": "unit(plain + mirrored), so the norm does not count",
            "verification": f"score >= k-th largest negative score, k rounded; {NUM_FOLDS} folds",
            "identification": "unmated probes set the threshold, ties against the probe",
            "interval": f"95 %, bootstrap over people, seed {args.seed}",
        }
        for line in missing:
            run.report.note(f"SurvFace: {line}")
        run.report.numbers("missing", missing)
        if pairs:
            verify(run, pairs, pair_faces)
        if probes:
            identify(run, probes, probe_faces)
        if not run.is_main:
            return
        run.report.note(INTERVALS)
        run.write_report()


if __name__ == "__main__":
    run_script(main)
