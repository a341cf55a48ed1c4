"""Two evaluations on the same data compared image by image: what differs, and whether chance explains it.

    python eval/eval_tinyface.py --model new.pt --data DATA --baseline old.pt.tinyface/results.json

Beside results.json an evaluation keeps outcomes.npz: for each of its rates, which probes or pairs came out
right, and whose they are. The difference of two rates is the mean of what differs, and its 95 % interval
comes from draws of people: both networks see the same ones in each draw, so that what is hard for both
cancels out. Thresholds are those of each evaluation, and are held fixed.

B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from prettytable import PrettyTable

from eval.bootstrap import bootstrap_mean

FILE = "outcomes.npz"


class Outcomes(NamedTuple):
    """What one rate is the mean of."""

    right: np.ndarray  # (N,) bool: accepted, identified, decided as it should be
    identity: np.ndarray  # (N,) whose


class Difference(NamedTuple):
    """A rate of both evaluations, in [0, 1], and half the width of the 95 % interval of their difference."""

    ours: float
    theirs: float
    half_width: float


def outcomes_at(names: list[str], right: np.ndarray, identity: np.ndarray) -> dict[str, Outcomes]:
    """Outcomes of several rates of the same probes: `right` is `(R, N)`, a row for each name."""
    return {name: Outcomes(row, identity) for name, row in zip(names, right, strict=True)}


def write_outcomes(path: Path, outcomes: Mapping[str, Outcomes]) -> None:
    """Write them to a file, which `read_outcomes` reads."""
    arrays = {}
    for i, (name, (right, identity)) in enumerate(outcomes.items()):
        arrays |= {f"{i}.name": np.array(name), f"{i}.right": right, f"{i}.identity": identity}
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_outcomes(results: Path) -> dict[str, Outcomes]:
    """The outcomes beside a results.json, which is named itself or by its folder.

    Raises:
        FileNotFoundError: no such file, or no outcomes beside it: the evaluation is of an older version.
        ValueError: the file is damaged.
    """
    folder = results if results.is_dir() else results.parent
    if not (folder / "results.json").is_file():
        raise FileNotFoundError(f"--baseline {results}: there is no results.json of an evaluation")
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"--baseline {results}: there is no {FILE} beside it, which tells what came out for each image; "
            "evaluate that model again"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            count = sum(key.endswith(".name") for key in file.files)
            return {
                str(file[f"{i}.name"]): Outcomes(file[f"{i}.right"], file[f"{i}.identity"])
                for i in range(count)
            }
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(f"--baseline: {path} is damaged ({error}); evaluate that model again") from None


def precision_of(results: Path) -> str | None:
    """The precision of the passes behind a results.json, which is named as in `read_outcomes`."""
    path = results / "results.json" if results.is_dir() else results.parent / "results.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["settings"]["precision"]
    except (OSError, ValueError, TypeError, KeyError):  # gone by now, of an older version, or damaged
        return None


def compare(
    ours: Mapping[str, Outcomes], theirs: Mapping[str, Outcomes], seed: int = 0
) -> dict[str, Difference]:
    """The differences of all rates that both evaluations have.

    Raises:
        ValueError: they have none in common, or were made on other data.
    """
    both = [name for name in ours if name in theirs]
    if not both:
        raise ValueError(
            f"--baseline is of another protocol or other sets: it has {', '.join(theirs) or 'no rates'}, "
            f"this evaluation has {', '.join(ours) or 'none'}"
        )
    found = {}
    for name in both:
        (right, identity), (their_right, their_identity) = ours[name], theirs[name]
        if not np.array_equal(identity, their_identity):
            raise ValueError(
                f"--baseline is of other data: {name} has {len(identity)} images or pairs here and "
                f"{len(their_identity)} there, or other people on them"
            )
        gain = right.astype(np.float64) - their_right
        half = bootstrap_mean(gain, identity, seed)
        found[name] = Difference(float(right.mean()), float(their_right.mean()), half)
    return found


def difference_table(differences: Mapping[str, Difference]) -> PrettyTable:
    """A row for each rate, in percent; "yes" where 0 lies outside the interval."""
    table = PrettyTable(["rate", "this %", "baseline %", "difference", "beyond chance"], align="r")
    table.align["rate"] = "l"
    for name, (ours, theirs, half) in differences.items():
        change = 100 * (ours - theirs)
        beyond = "yes" if abs(change) > 100 * half else "no"
        table.add_row(
            [name, f"{100 * ours:.2f}", f"{100 * theirs:.2f}", f"{change:+.2f} ± {100 * half:.2f}", beyond]
        )
    return table
