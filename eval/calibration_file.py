"""calibration.json: thresholds with what they hold for, so that no other model is judged by them."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.calibration import Calibration
from eval.calibration_report import as_numbers
from eval.models import made_otherwise
from utils.files import read_json, write_json

FORMAT = "lqface calibration"
FEW = 0.01  # share of the calibration's images below which a norm is called short


class Threshold(NamedTuple):
    """From which cosine on a pair is accepted."""

    far: float
    cosine: float
    interval: float  # half width of the 95 % interval


def write_calibration(
    path: Path, found: Calibration, made_with: Mapping, norms: np.ndarray, data: Mapping
) -> None:
    """Write the file, whole or not at all.

    Args:
        made_with: what the embeddings depend on: model, its hash, mirror, precision.
        norms: `(N,)` of the images.
        data: what the pairs were.
    """
    short = {"share": FEW, "norm": float(np.quantile(norms, FEW)), "median": float(np.median(norms))}
    about = {"format": FORMAT, "made_with": dict(made_with), "data": dict(data)}
    write_json(path, about | as_numbers(found) | {"norms": short})


def read_calibration(path: Path, made_with: Mapping) -> dict:
    """What `write_calibration` wrote.

    Args:
        made_with: what the embeddings depend on that are to be judged.
    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or of another model or another way of making embeddings.
    """
    try:
        content = read_json(path)
        rows = [(float(row["far"]), float(row["cosine"] or 0)) for row in content["thresholds"]]
        if content["format"] != FORMAT or not isinstance(content["made_with"], dict) or not rows:
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of tools/calibrate.py") from error
    if differs := made_otherwise(content["made_with"], made_with):
        raise ValueError(f"{path} {differs}: its thresholds do not hold here, calibrate again")
    return content


def threshold_at(calibration: Mapping, far: float, path: Path) -> Threshold:
    """The threshold at a false accept rate.

    Raises:
        ValueError: the file has none for it.
    """
    known = {row["far"]: row for row in calibration["thresholds"]}
    row = known.get(next((rate for rate in known if np.isclose(rate, far, rtol=1e-6)), None))
    if row is None:
        raise ValueError(
            f"{path} has no threshold at FAR {far:g}; it has {', '.join(f'{r:g}' for r in known)}"
        )
    if row["cosine"] is None:
        raise ValueError(
            f"{path} is of {calibration['pairs']:,} pairs of different people, and FAR {far:g} takes "
            f"{np.ceil(1 / far):,.0f} or more: calibrate with more people, or choose a larger --far"
        )
    return Threshold(row["far"], row["cosine"], row["interval"])
