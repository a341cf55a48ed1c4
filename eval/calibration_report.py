"""Cosines at FAR as the table that every evaluation prints, and as numbers for files."""

from collections.abc import Mapping

import numpy as np
from prettytable import PrettyTable

from eval.calibration import Calibration
from eval.report import Report

NOTE = """Cosine at FAR: accept from there on, and that share of these pairs of different people is accepted.
± half the 95 % interval over draws of people (of pairs, where a set does not say who is on them)."""


def calibration_table(calibrations: Mapping[str, Calibration], what: str = "set") -> PrettyTable:
    """A row for each set: the cosine at each rate and its interval.

    Args:
        what: the heading of the names.
    """
    fars = next(iter(calibrations.values())).fars
    table = PrettyTable([what, "pairs", "people", *(f"FAR={far:g}" for far in fars)], align="r")
    table.align[what] = "l"
    for name, found in calibrations.items():
        table.add_row([name, f"{found.pairs:,}", f"{found.people:,}", *in_words(found)])
    return table


def in_words(found: Calibration) -> list[str]:
    """Such as 0.312 ± 0.014 at each rate."""
    return [
        "too few pairs" if np.isnan(cosine) else f"{cosine:.3f} ± {half:.3f}"
        for cosine, half in zip(found.cosine, found.interval)
    ]


def report_calibrations(report: Report, calibrations: Mapping[str, Calibration], what: str = "set") -> None:
    """Add the table and the numbers to an evaluation's page."""
    report.table(calibration_table(calibrations, what), "Cosine at FAR, of pairs of different people")
    report.note(NOTE)
    report.numbers("calibration", {name: as_numbers(found) for name, found in calibrations.items()})


def as_numbers(found: Calibration) -> dict:
    """What results.json and calibration.json keep; None: too few pairs."""
    thresholds = []
    for far, *values in zip(found.fars.tolist(), found.cosine.tolist(), found.interval.tolist()):
        cosine, interval = (value if np.isfinite(value) else None for value in values)
        thresholds.append({"far": far, "cosine": cosine, "interval": interval})
    return {"pairs": found.pairs, "people": found.people, "thresholds": thresholds}
