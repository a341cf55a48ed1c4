"""Verification accuracy on `.bin` sets: LFW, CFP-FP, AgeDB-30, CALFW, CPLFW, RFW, or a set of one's own.

    python eval/verification.py --model work_dirs/demo/model.pt --data demo_hq.bin demo_lq.bin
    torchrun --nproc_per_node=4 eval/verification.py --model r100.pth --network r100 --data ms1mv2/*.bin

The protocol is insightface's: feature = unit(f(x) + f(mirrored x)), squared distance, ten folds of
consecutive pairs; each fold is judged at the threshold that was best on the other nine.

Ties: a pair is accepted where distance < threshold, strictly. Of equally good thresholds the smallest wins.
The threshold at FAR = 1e-3 is the smallest whose interpolated rate attains it (`folds.threshold_at_far`).
Writes results.json, roc.png, det.png and report.html to MODEL.verification/ or --out. Thresholds for use
elsewhere are given as cosines (distance = 2 - 2 cosine): the best, and those of all pairs at FAR .1 to .001.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from prettytable import PrettyTable
from torch import nn

from eval.features import extract
from eval.figures import det_figure, roc_figure
from eval.folds import count_accepted, fold_of_each, ratio, threshold_at_far
from eval.metrics import check_unit, normalise
from eval.readers.bin_sets import load_bin, require_bin
from eval.run import arguments, evaluation
from utils.command_line import run_script

THRESHOLDS = np.arange(0, 4, 0.01)  # of the squared distance
FINE_THRESHOLDS = np.arange(0, 4, 0.001)  # for VAL@FAR
FAR_TARGET = 1e-3
OPERATING_FARS = (1e-1, 1e-2, 1e-3)
CONVENTIONS = """Feature: image plus mirror image, brought to length 1. Accuracy: each fold at the threshold
best on the others; ± is the standard deviation over the folds. Accepted: squared distance < threshold."""


@dataclass(frozen=True)
class VerificationResult:
    """What one set says of one network."""

    accuracy: np.ndarray  # (folds,) share of right decisions
    tpr: np.ndarray  # (400,) true accept rate at THRESHOLDS, mean over the folds
    fpr: np.ndarray  # (400,) false accept rate
    threshold: np.ndarray  # (folds,) best threshold of the other folds, squared distance
    val: float  # true accept rate at the threshold where the other folds have FAR = 1e-3, mean over the folds
    far: float  # the false accept rate really met there
    far_cosine: np.ndarray  # (3,) cosine at OPERATING_FARS, over all pairs; NaN: too few pairs
    xnorm: float | None = None  # mean length of the raw features, both views

    @property
    def mean(self) -> float:
        return float(self.accuracy.mean())

    @property
    def std(self) -> float:
        """Standard deviation over the folds, of the population (divided by the number of folds)."""
        return float(self.accuracy.std())

    @property
    def cosine_threshold(self) -> np.ndarray:
        """`threshold` as a cosine: for unit vectors, squared distance = 2 - 2 cosine."""
        return 1 - self.threshold / 2


def folds_of_pairs(issame: np.ndarray, nrof_folds: int) -> np.ndarray:
    """The fold of each pair, `(P,)`.

    Raises:
        ValueError: fewer pairs than folds, or one kind of pair only.
    """
    if issame.all() or not issame.any():
        kind = "the same person" if issame.all() else "different people"
        raise ValueError(f"all {len(issame)} pairs are of {kind}, expected both kinds")
    return fold_of_each(len(issame), nrof_folds)


def load_set(path: str | Path, nrof_folds: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """`load_bin`, for a set that `evaluate` can score: what it cannot is told before hours of training.

    Raises:
        FileNotFoundError, ValueError: see `load_bin` and `folds_of_pairs`.
    """
    images, issame = load_bin(path)
    try:
        folds_of_pairs(issame, nrof_folds)
    except ValueError as fault:
        raise ValueError(f"{path}: {fault}") from None
    return images, issame


def evaluate(embeddings: np.ndarray, issame: np.ndarray, nrof_folds: int = 10) -> VerificationResult:
    """k-fold verification accuracy, ROC and VAL@FAR=1e-3.

    Args:
        embeddings: `(2P, D)`, unit rows (or zero); rows 2i and 2i+1 form pair i.
        issame: `(P,)`, true where both are the same person.
        nrof_folds: consecutive blocks of pairs, as scikit-learn's KFold makes them.
    Raises:
        ValueError: shapes that do not fit, rows not of unit length, one kind of pair only, too few pairs.
    """
    embeddings, issame = np.asarray(embeddings, dtype=np.float64), np.asarray(issame).astype(bool)
    if embeddings.ndim != 2 or issame.ndim != 1 or len(embeddings) != 2 * len(issame):
        shapes = f"embeddings {embeddings.shape} and issame {issame.shape}"
        raise ValueError(f"{shapes} do not fit: expected (2P, D) and (P,)")
    check_unit(embeddings)
    fold = folds_of_pairs(issame, nrof_folds)  # (P,)
    distance = np.square(embeddings[0::2] - embeddings[1::2]).sum(axis=1)  # (P,)
    group = 2 * fold + issame  # (P,) fold by fold: different pairs, same pairs

    def accepted_at(thresholds: np.ndarray) -> np.ndarray:
        """Counts `(folds, 2, T)`; [:, 0] are false accepts, [:, 1] true accepts."""
        return count_accepted(distance, group, 2 * nrof_folds, thresholds).reshape(nrof_folds, 2, -1)

    def other_folds(counts: np.ndarray) -> np.ndarray:
        return counts.sum(axis=0) - counts

    num_pairs = np.bincount(group, minlength=2 * nrof_folds).reshape(nrof_folds, 2)
    accepted = accepted_at(THRESHOLDS)
    rates = ratio(accepted, num_pairs[:, :, None], if_empty=0).mean(axis=0)  # (2, 400)
    gain = accepted[:, 1] - accepted[:, 0]  # (folds, 400) right decisions, less the number of different pairs
    best = other_folds(gain).argmax(axis=1)  # (folds,) the first maximum
    correct = gain[np.arange(nrof_folds), best] + num_pairs[:, 0]

    false_accepts = accepted_at(FINE_THRESHOLDS)[:, 0]  # (folds, 4000)
    overall = false_accepts.sum(axis=0) / num_pairs[:, 0].sum()
    far_cosine = [1 - threshold_at_far(overall, FINE_THRESHOLDS, target) / 2 for target in OPERATING_FARS]
    measurable = np.array(OPERATING_FARS) * num_pairs[:, 0].sum() >= 1  # of 300 pairs, not one in a thousand

    far = ratio(other_folds(false_accepts), other_folds(num_pairs)[:, :1], if_empty=0)  # (folds, 4000)
    strict = np.array([threshold_at_far(row, FINE_THRESHOLDS, FAR_TARGET) for row in far])
    accepted = np.bincount(group[distance < strict[fold]], minlength=2 * nrof_folds).reshape(nrof_folds, 2)
    # A fold that has no pairs of one kind says nothing about their rate.
    far, val = np.nanmean(ratio(accepted, num_pairs, if_empty=np.nan), axis=0)

    return VerificationResult(
        accuracy=correct / num_pairs.sum(axis=1),
        tpr=rates[1],
        fpr=rates[0],
        threshold=THRESHOLDS[best],
        val=float(val),
        far=float(far),
        far_cosine=np.where(measurable, far_cosine, np.nan),
    )


def score(plain: np.ndarray, flip: np.ndarray, issame: np.ndarray, nrof_folds=10) -> VerificationResult:
    """`evaluate` on the sum of both views, with the mean length of the raw features, `(2P, D)` each."""
    result = evaluate(normalise(plain.astype(np.float64) + flip), issame, nrof_folds)
    xnorm = np.linalg.norm(np.concatenate([plain, flip]), axis=1).mean()
    return replace(result, xnorm=float(xnorm))


def verify(
    backbone: nn.Module,
    images: np.ndarray,
    issame: np.ndarray,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    precision: str = "fp32",
    nrof_folds: int = 10,
) -> VerificationResult:
    """Extract the features of a set, over all ranks, and evaluate them; every rank returns the same result.

    Args:
        images, issame: what `load_bin` returns, the same on every rank.
        batch_size, device, precision: see `features.extract`.
    """
    plain, flip = extract(backbone, images, batch_size=batch_size, device=device, precision=precision)
    return score(plain, flip, issame, nrof_folds)


def report(result: VerificationResult, path: Path, num_pairs: int) -> dict:
    """What the JSON file keeps of one set: full precision, every fold."""
    return {
        "file": str(path),
        "pairs": num_pairs,
        "accuracy": result.mean,
        "std": result.std,
        "fold_accuracy": result.accuracy.tolist(),
        "fold_cosine_threshold": result.cosine_threshold.tolist(),
        "val": result.val,
        "far": result.far,
        "far_target": FAR_TARGET,
        "best_cosine": float(result.cosine_threshold.mean()),
        "far_cosine": {f"{far:g}": cosine for far, cosine in zip(OPERATING_FARS, result.far_cosine.tolist())},
        "xnorm": result.xnorm,
    }


def mean_of(reports: dict[str, dict], key: str) -> float:
    """Over the sets."""
    return float(np.mean([r[key] for r in reports.values()]))


def table(reports: dict[str, dict]) -> PrettyTable:
    """One row a set, and their mean where there are several. FAR: what VAL's thresholds really let in."""
    columns = ["set", "pairs", "accuracy %", "VAL % @FAR=1e-3", "FAR %", "best cosine", "XNorm"]
    rows = PrettyTable(columns, align="r")
    rows.align["set"] = "l"
    for name, r in reports.items():
        accuracy = f"{100 * r['accuracy']:.2f} ± {100 * r['std']:.2f}"
        shares = [f"{100 * r[key]:.2f}" for key in ("val", "far")]
        rows.add_row([name, r["pairs"], accuracy, *shares, f"{r['best_cosine']:.3f}", f"{r['xnorm']:.4g}"])
    if len(reports) > 1:
        accuracy, val = (f"{100 * mean_of(reports, key):.2f}" for key in ("accuracy", "val"))
        rows.add_row(["mean", "", accuracy, val, "", "", ""])
    return rows


def threshold_table(reports: dict[str, dict]) -> PrettyTable:
    """The cosines above which to accept a pair, one row a set."""
    rows = PrettyTable(["set", "best", *(f"FAR={far:g}" for far in OPERATING_FARS)], align="r")
    rows.align["set"] = "l"
    for name, r in reports.items():
        far_cosine = ["too few pairs" if np.isnan(c) else f"{c:.3f}" for c in r["far_cosine"].values()]
        rows.add_row([name, f"{r['best_cosine']:.3f}", *far_cosine])
    return rows


def main() -> None:
    args = arguments(__doc__, data=".bin files", several=["data"]).parse_args()
    paths = [require_bin(path) for path in args.data]  # a misspelt last one is told before the first is run
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):  # sets of the same name in several folders
        names = [str(path) for path in paths]
    with evaluation(args, "verification", "Verification") as run:
        reports, curves = {}, {}
        for name, path in zip(names, paths):
            images, issame = load_set(path)
            result = score(*run.features(images), issame)
            reports[name], curves[name] = report(result, path, len(issame)), (result.fpr, result.tpr)
        if run.is_main:
            run.report.table(table(reports), "Accuracy")
            run.report.table(threshold_table(reports), "Thresholds on the cosine (at FAR: of all pairs)")
            run.report.note(CONVENTIONS)
            for kind, figure in (("roc", roc_figure), ("det", det_figure)):
                run.report.picture(kind, figure(curves), f"{kind.upper()}, mean over the folds")
            run.report.numbers("sets", reports)
            run.report.numbers("mean", {key: mean_of(reports, key) for key in ("accuracy", "val")})
            run.report.write(run.out)


if __name__ == "__main__":
    run_script(main)
