"""The page of a verification: tables and curves of several sets. Apart, as training needs no matplotlib."""

from collections.abc import Mapping

import numpy as np

from eval.baseline import Outcomes
from eval.figures import det_figure, roc_figure
from eval.kfold import VerificationResult
from eval.report import Report
from eval.verification_report import mean_of, table

CONVENTIONS = """Feature: image plus mirror image, brought to length 1. Accuracy: each fold at the threshold
best on the others; ± is the standard deviation over the folds. Accepted: squared distance < threshold."""


def report_sets(page: Report, results: Mapping[str, VerificationResult], reports: Mapping[str, dict]) -> None:
    """Add the tables, curves and numbers of several sets to a page.

    Args:
        results: name of the set -> what `score` or `verify` returned.
        reports: name -> what `report` returns.
    """
    page.table(table(reports), "Accuracy")
    page.note(CONVENTIONS)
    curves = {name: (result.fpr, result.tpr) for name, result in results.items()}
    for kind, figure in (("roc", roc_figure), ("det", det_figure)):
        page.picture(kind, figure(curves), f"{kind.upper()}, mean over the folds")
    page.numbers("sets", reports)
    for name, result in results.items():
        page.keep_outcomes({"accuracy": Outcomes(result.right, np.arange(len(result.right)))}, name)
    page.numbers("mean", {key: mean_of(reports, key) for key in ("accuracy", "val")})
