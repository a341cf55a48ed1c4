"""What the folder of a run holds, read for the pages about it; a run may still be going on."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.logging import read_metrics

OF_TRAINING = ("epoch", "loss", "lr", "images_per_second")  # what every line of its kind has
OF_SET = ("accuracy", "accuracy_std")
# Settings that decide nothing in a comparison: where a run is, how it was started, what loss_args repeats.
NOT_COMPARED = ("name", "output", "resume", "margin_list", "interclass_filtering_threshold")


@dataclass
class RunFiles:
    """The files of one run; `hard` is what training/hard_samples.py has written, or {}."""

    folder: Path
    config: dict[str, Any]
    run: dict[str, Any]
    lines: list[dict] = field(default_factory=list)
    hard: dict[str, Any] = field(default_factory=dict)
    earlier: list[dict[str, Any]] = field(default_factory=list)  # settings of its parts before, in order

    @property
    def name(self) -> str:
        """What pages call it: the name of its folder."""
        return self.folder.resolve().name

    @property
    def train(self) -> list[dict]:
        """The lines of training steps, in order."""
        return training_lines(self.lines)

    @property
    def total_steps(self) -> int | None:
        """Steps that the run is to have; None where run.json does not say it."""
        return self.run.get("num_steps")

    def verification(self) -> dict[str, tuple[float, float, int]]:
        """For each set: the last accuracy, the best one, and the step of the best."""
        found: dict[str, tuple[float, float, int]] = {}
        for line in verification_lines(self.lines):
            if (accuracy := line["accuracy"]) is not None:
                _, best, step = found.get(line["set"], (0.0, -math.inf, 0))
                better = accuracy > best
                found[line["set"]] = accuracy, max(accuracy, best), line["step"] if better else step
        return found


def read_run(folder: str | Path) -> RunFiles:
    """Read the folder of a run, finished or not.

    Raises:
        FileNotFoundError: no such folder, or it holds no config.json and metrics.jsonl.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected the output folder of a run")
    missing = [name for name in ("config.json", "metrics.jsonl") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} holds no {' and no '.join(missing)}: it is not the output folder of a run"
        )
    names = ("config.json", "run.json", "hard_samples.json")
    config, run, hard = (_read_object(folder / name) for name in names)
    earlier = [_read_object(file) for file in sorted(folder.glob("config.[0-9][0-9][0-9][0-9].json"))]
    return RunFiles(folder, config, run, read_metrics(folder / "metrics.jsonl"), hard, earlier)


def training_lines(lines: Sequence[dict]) -> list[dict]:
    """The lines of metrics.jsonl about training steps; other programs may have written lines of their own."""
    return [line for line in lines if line["kind"] == "train" and _has_numbers(line, OF_TRAINING)]


def verification_lines(lines: Sequence[dict]) -> list[dict]:
    """Those about verification sets."""
    named = (line for line in lines if line["kind"] == "eval" and isinstance(line.get("set"), str))
    return [line for line in named if _has_numbers(line, OF_SET)]


def _has_numbers(line: dict, names: Sequence[str]) -> bool:
    """Whether these entries are numbers, or null."""
    return all(name in line and isinstance(line[name], int | float | None) for name in names)


def differing(named: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Settings whose values are not all equal: name -> the value of each run, None where it has none.

    Of a setting that is a dict, the parts are compared: `loss_args.m`.
    """
    parts = [_parts(settings) for settings in named.values()]
    names = dict.fromkeys(name for settings in parts for name in settings)
    rows = {name: [settings.get(name) for settings in parts] for name in names}
    return {
        name: row
        for name, row in rows.items()
        if name not in NOT_COMPARED
        and any(value != row[0] for value in row)
        and not any(other.startswith(f"{name}.") for other in names)
    }


def _parts(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings, with `name.part` in place of a dict."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= _parts(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is none: a page shows what there is."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
