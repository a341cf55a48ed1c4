"""Ten-fold verification of pairs: the numbers of a network, and what is printed and kept of several sets.

For the script `verification.py`, for training, and for any other set of pairs that is tested this way.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from prettytable import PrettyTable
from torch import nn

from eval.calibration import Calibration, calibrate_pairs
from eval.features import extract
from eval.kfold import FAR_TARGET, VerificationResult, evaluate
from eval.metrics import normalise


def score(plain: np.ndarray, flip: np.ndarray, issame: np.ndarray) -> VerificationResult:
    """`evaluate` on the sum of both views, with the mean length of the raw features, `(2P, D)` each."""
    result = evaluate(normalise(plain.astype(np.float64) + flip), issame)
    xnorm = np.linalg.norm(np.concatenate([plain, flip]), axis=1).mean()
    return replace(result, xnorm=float(xnorm))


def verify(
    backbone: nn.Module,
    images: np.ndarray,
    issame: np.ndarray,
    *,
    batch_size: int = 64,
    precision: str = "fp32",
) -> VerificationResult:
    """Extract the features of a set, over all ranks, and evaluate them; every rank returns the same result.

    Args:
        images, issame: what `load_bin` returns, the same on every rank.
        batch_size, precision: see `features.extract`.
    """
    return score(*extract(backbone, images, batch_size=batch_size, precision=precision), issame)


def report(result: VerificationResult, path: Path, num_pairs: int) -> dict:
    """What results.json keeps of one set: full precision, every fold."""
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
        "enough_pairs": result.enough_pairs,
        "fold_pairs": result.num_pairs.tolist(),
        "warning": result.order_warning,
        "best_cosine": float(result.cosine_threshold.mean()),
        "xnorm": result.xnorm,
    }


def means(reports: Mapping[str, dict]) -> dict[str, dict]:
    """{"mean": accuracy and VAL over the sets}; of several models "mean MODEL" for each.

    VAL is over the sets that have enough pairs for it, None without any.
    """
    of_models: dict[str, list[dict]] = {}
    for r in reports.values():
        of_models.setdefault(f"mean {r['model']}" if "model" in r else "mean", []).append(r)
    found = {}
    for name, of_model in of_models.items():
        vals = [r["val"] for r in of_model if r["enough_pairs"]]
        accuracy = float(np.mean([r["accuracy"] for r in of_model]))
        found[name] = {"accuracy": accuracy, "val": float(np.mean(vals)) if vals else None}
    return found


def table(reports: Mapping[str, dict]) -> PrettyTable:
    """One row a set, and their mean (of each model) where there are several.

    FAR: what VAL's thresholds really let in.

    A set with so few pairs of different people that no threshold has the rate has no VAL here.

    Args:
        reports: name of the set -> what `report` returns; of several models with its name as "model".
    """
    columns = ["set", "pairs", "accuracy %", "VAL % @FAR=1e-3", "FAR %", "best cosine", "XNorm"]
    rows = PrettyTable(columns, align="r")
    rows.align["set"] = "l"
    for name, r in reports.items():
        accuracy = f"{100 * r['accuracy']:.2f} ± {100 * r['std']:.2f}"
        shares = [f"{100 * r[key]:.2f}" for key in ("val", "far")]
        shares = shares if r["enough_pairs"] else ["too few pairs", ""]
        rows.add_row([name, r["pairs"], accuracy, *shares, f"{r['best_cosine']:.3f}", f"{r['xnorm']:.4g}"])
    mean_rows = means(reports)
    for name, mean in mean_rows.items() if len(reports) > len(mean_rows) else ():
        val = "" if mean["val"] is None else f"{100 * mean['val']:.2f}"
        rows.add_row([name, "", f"{100 * mean['accuracy']:.2f}", val, "", "", ""])
    return rows


def pair_cosines(plain: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """The cosine of each pair, `(P,)`, of raw features `(2P, D)` of both views."""
    unit = normalise(plain.astype(np.float64) + flip)
    return np.einsum("pd,pd->p", unit[0::2], unit[1::2])


def calibration(plain: np.ndarray, flip: np.ndarray, issame: np.ndarray, seed: int = 0) -> Calibration:
    """The cosines at FAR of a set; its pairs are drawn, as it does not say who is on them."""
    return calibrate_pairs(pair_cosines(plain, flip)[~issame], seed=seed)


def summary(
    results: Mapping[str, VerificationResult],
    files: Mapping[str, Path],
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> str:
    """The table of several sets as text, and what is wrong with their order; "" without any.

    Args:
        results: name of the set -> what `verify` returned.
        files: name -> its file.
        sets: name -> what `load_set` returned.
    """
    reports = {name: report(result, files[name], len(sets[name][1])) for name, result in results.items()}
    return "\n".join([str(table(reports)), *order_warnings(reports)]) if reports else ""


def order_warnings(reports: Mapping[str, dict]) -> list[str]:
    """A sentence for each set whose folds hold one kind of pair."""
    return [f"Warning: {name}: {r['warning']}" for name, r in reports.items() if r["warning"]]
