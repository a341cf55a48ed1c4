"""The page of a verification: tables and curves of several sets. Apart, as training needs no matplotlib."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from eval.baseline import Outcomes
from eval.figures import cosine_figure, det_figure, roc_figure
from eval.kfold import VerificationResult
from eval.report import Report
from eval.verification_report import means, order_warnings, table
from reports.page import jpeg_of

CONVENTIONS = """Feature: image plus mirror image, brought to length 1. Accuracy: each fold at the threshold
best on the others; ± is the standard deviation over the folds. Accepted: squared distance < threshold.
too few pairs: fewer than 1 / FAR are of different people in nine of the folds."""

NUM_WORST = 8  # pairs of each kind that the page shows


class Pairs(NamedTuple):
    """What the page shows of the pairs of one set: how their cosines lie, and the worst of them."""

    cosines: np.ndarray  # (P,)
    same: np.ndarray  # (P,) bool
    thresholds: np.ndarray  # (folds,) cosines
    worst: dict[str, list[tuple[bytes, str]]]  # heading -> JPEG of both faces, and what stands below


def report_sets(page: Report, results: Mapping[str, VerificationResult], reports: Mapping[str, dict]) -> None:
    """Add the tables, curves and numbers of several sets to a page.

    Args:
        results: name of the set -> what `score` or `verify` returned.
        reports: name -> what `report` returns.
    """
    page.table(table(reports), "Accuracy")
    for warning in order_warnings(reports):
        page.note(warning)
    page.note(CONVENTIONS)
    curves = {name: (result.fpr, result.tpr) for name, result in results.items()}
    for kind, figure in (("roc", roc_figure), ("det", det_figure)):
        page.picture(kind, figure(curves), f"{kind.upper()}, mean over the folds")
    page.numbers("sets", reports)
    for name, result in results.items():
        # A number for each pair, which also tells a list whose pairs are of other kinds.
        identity = 2 * np.arange(len(result.right)) + result.same
        page.keep_outcomes({"accuracy": Outcomes(result.right, identity)}, name)
    for name, mean in means(reports).items():
        page.numbers(name, mean)


def pairs_of(
    images: np.ndarray, issame: np.ndarray, cosines: np.ndarray, result: VerificationResult
) -> Pairs:
    """Choose the pairs that are furthest on the wrong side.

    Args:
        images: `(2P, 112, 112, 3)` uint8 RGB.
        issame, cosines: `(P,)`.
    """
    worst = {}
    for kind, sign, heading in (
        (issame, 1, "pairs of one person that look least alike"),
        (~issame, -1, "pairs of two people that look most alike"),
    ):
        pairs = np.flatnonzero(kind)
        chosen = pairs[np.argsort(sign * cosines[pairs], kind="stable")[:NUM_WORST]]
        worst[heading] = [
            (
                jpeg_of(np.concatenate([images[2 * pair], images[2 * pair + 1]], axis=1)),
                f"pair {pair}: cosine {cosines[pair]:.3f}, {'right' if result.right[pair] else 'wrong'}",
            )
            for pair in chosen
        ]
    return Pairs(cosines, issame, result.cosine_threshold, worst)


def report_pairs(report: Report, name: str, pairs: Pairs) -> None:
    """Add a histogram and the worst pairs to the page; `name`: of the set, and of the model if several."""
    figure = cosine_figure(pairs.cosines, pairs.same, pairs.thresholds, name)
    file = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
    report.picture(f"cosines_{file}", figure, f"{name}: cosines of the pairs")
    for heading, faces in pairs.worst.items():
        report.page.heading(f"{name}: {heading}")
        report.page.faces(faces, pairs=True)
