"""QMUL-SurvFace: surveillance faces; verification of pairs, and open-set identification.

    python eval/eval_survface.py --model r100.pth --network r100 --data /data/survface
    python eval/eval_survface.py --model adaface.ckpt --data /data/survface --aligned my_alignment

Z. Cheng, X. Zhu, S. Gong, Surveillance Face Recognition Challenge, 2018, https://arxiv.org/abs/1804.09691

Tree: DATA/QMUL-SurvFace/Face_{Verification,Identification}_Test_Set as published; 112x112 faces in
DATA/surv_ver_origin/verification_images and DATA/surv_align/{gallery,mated_probe,unmated_probe}, matched by
stem. Half of the tree may be missing: the other half is evaluated, and the report says so.

Feature = unit(f(x) + f(mirrored x)), in the colour order that the network was trained on; score = cosine.

Verification, as in NDR's notebook: at a false accept rate FAR the threshold is the k-th largest score of the
N negative pairs, k = round(FAR N) (half to even), above all of them where k = 0; a pair is accepted where
score >= threshold. Mean accuracy is that of eval/verification.py: ten folds, each a tenth of the positive
pairs and a tenth of the negative ones, in the order of the lists.

Identification, as the paper defines it (NDR's code swaps gallery and probes): mated and unmated probes are
searched among single gallery images. FPIR is the share of unmated probes whose best score reaches the
threshold, the round(FPIR U)-th largest of these best scores; TPIR20 the share of mated probes with a mate
that scores at least the threshold and is among the 20 best. The closed-set ranks ask for no threshold. Ties
go against the probe.

±: 95 % interval over people drawn with replacement (identification: with the thresholds as they are); for
accuracy the standard deviation over folds.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from prettytable import PrettyTable

from eval.figures import cmc_figure, det_figure, roc_figure
from eval.readers.faces import AlignedFaces
from eval.report import Report, in_percent
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
deviation over the {NUM_FOLDS} folds."""


def unit_features(run: Evaluation, paths: list[Path]) -> np.ndarray:
    """`(N, D)` float32, rows of length 1: the sum of a face and its mirror image."""
    plain, flip = run.features(AlignedFaces(paths))
    return fuse(plain, flip, keep_norm=False)


def numbers(result: PairResult | ProbeResult) -> dict:
    """What results.json keeps: everything but the curve."""
    return {name: value for name, value in vars(result).items() if name != "curve"}


def report_pairs(report: Report, name: str, pairs: Pairs, result: PairResult) -> None:
    num_positive = int(pairs.same.sum())
    sizes = {"images": len(pairs.paths), "positive": num_positive, "negative": len(pairs.same) - num_positive}
    table = PrettyTable(
        [*sizes, *(f"@FAR={far:g}" for far in FARS), "AUC %", "accuracy %, ± fold std"], align="r"
    )
    shares = in_percent(result.tpr, result.interval)
    accuracy = in_percent([result.accuracy], [result.std])
    table.add_row([*sizes.values(), *shares, f"{100 * result.auc:.2f}", *accuracy])
    report.table(table, "SurvFace, verification: TPR in percent at FAR")
    accuracy = {"accuracy": result.accuracy, "std": result.std}
    report.numbers("verification", sizes | {"far_target": FARS} | numbers(result) | accuracy)
    curves, title = {name: result.curve}, "SurvFace, verification"
    report.picture("roc", roc_figure(curves, title), "Verification, accepted pairs")
    report.picture("det", det_figure(curves, title), "Verification, both errors")


def report_probes(report: Report, name: str, probes: Probes, result: ProbeResult) -> None:
    sizes = {"gallery": len(probes.gallery_ids), "mated": len(probes.mated_ids)}
    sizes["unmated"] = probes.num_unmated
    table = PrettyTable([*sizes, *(f"@FPIR={fpir:g}" for fpir in FPIRS)], align="r")
    table.add_row([*sizes.values(), *in_percent(result.tpir, result.tpir_interval)])
    report.table(table, f"SurvFace, open-set identification: TPIR{TPIR_RANK} in percent at FPIR")
    table = PrettyTable([f"rank-{rank} %" for rank in RANKS], align="r")
    table.add_row(in_percent(result.rate, result.rate_interval))
    report.table(table, "SurvFace, closed-set identification of the mated probes")
    targets = {"lists": probes.lists, "fpir_target": FPIRS, "tpir_rank": TPIR_RANK, "ranks": RANKS}
    report.numbers("identification", sizes | targets | numbers(result))
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

    with evaluation(args, "survface", "QMUL-SurvFace") as run:
        report, name = run.report, run.models[0].name
        report.settings |= {
            "verification_images": args.verification_images or args.data / VERIFICATION_IMAGES,
            "aligned": args.aligned or args.data / ALIGNED,
            "features": "unit(plain + mirrored), so the norm does not count",
            "verification": f"score >= k-th largest negative score, k rounded; {NUM_FOLDS} folds",
            "identification": "unmated probes set the threshold, ties against the probe",
            "interval": f"95 %, bootstrap over people, seed {args.seed}",
        }
        for line in missing:
            report.note(f"SurvFace: {line}")
        report.numbers("missing", missing)
        if pairs is not None:
            unit = unit_features(run, pairs.paths)
            if run.is_main:
                views = unit[pairs.first], unit[pairs.second]
                result = evaluate_pairs(*views, pairs.same, pairs.people, args.seed)
                report_pairs(report, name, pairs, result)
        if probes is not None:
            unit = unit_features(run, probes.paths)
            if run.is_main:
                parts = np.split(unit, np.cumsum([len(probes.gallery_ids), len(probes.mated_ids)]))
                result = evaluate_probes(*parts, probes.gallery_ids, probes.mated_ids, args.seed)
                report_probes(report, name, probes, result)
        report.note(INTERVALS)
        if run.is_main:
            report.write(run.out)


if __name__ == "__main__":
    run_script(main)
