"""What an evaluation leaves behind: results.json, pictures, and report.html, a page that needs nothing else.

Two runs on the same model and data write the same results.json, byte for byte: it holds no times. Files are
replaced, never appended to; pictures of an earlier report that this one lacks are removed.
"""

import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from prettytable import PrettyTable

from eval.baseline import FILE, Difference, Outcomes, difference_table, precision_of, write_outcomes
from reports.page import Page, png_of
from utils.files import whole_file, write_json
from utils.run_info import git_state, hardware, versions

NOT_NUMBERS = ("curve", "calibration", "outcomes")


class Report:
    """Collects tables, notes, pictures and numbers, in order; `write` then prints and writes all of them.

    Args:
        title: of the page, such as the name of the protocol.
        settings: what the numbers depend on; a script may add to `report.settings` until it writes.
    """

    def __init__(self, title: str, settings: Mapping[str, Any]):
        self.title, self.settings = title, dict(settings)
        self.content: dict[str, Any] = {}  # of results.json
        self.pictures: dict[str, bytes] = {}
        self.outcomes: dict[str, Outcomes] = {}  # what rates are means of, for a later comparison
        self.text: list[str] = []  # for the screen
        self.page = Page(title, ", ".join(model["file"] for model in self.settings.get("models", ())))

    def note(self, text: str) -> None:
        """A paragraph: a convention, a warning."""
        self.text.append(textwrap.fill(" ".join(text.split()), 100))
        self.page.note(text)

    def table(self, table: PrettyTable, caption: str = "") -> None:
        """A table, for screen and page."""
        self.text.append(f"{caption}\n{table}" if caption else str(table))
        self.page.table(table, caption)

    def numbers(self, key: str, content: Any) -> None:
        """An entry of results.json, in full precision: numbers, NumPy's too, text, lists, dicts."""
        self.content[key] = content

    def keep_outcomes(self, outcomes: Mapping[str, Outcomes], prefix: str = "") -> None:
        """What came out for each probe or pair, for a later comparison; `prefix` tells sets apart."""
        self.outcomes |= {f"{prefix} {name}".strip(): outcome for name, outcome in outcomes.items()}

    def compare(self, differences: Mapping[str, Difference], baseline: Path) -> None:
        """What differs from an earlier evaluation, as a table and as numbers."""
        self.table(difference_table(differences), f"Against {baseline}")
        self.note(
            "Difference: ± half the 95 % interval over draws of people (of pairs, where a set does not say "
            "who is on them), the same for both; thresholds held fixed."
        )
        precision, theirs = self.settings.get("precision"), precision_of(baseline)
        if theirs not in (None, precision):
            self.note(
                f"Precision: {precision} here, {theirs} in the baseline, which is part of the difference; "
                f"--precision {theirs} leaves that out."
            )
        self.numbers("baseline", {"file": str(baseline), "differences": _as_dicts(differences)})

    def picture(self, name: str, figure: Figure, caption: str = "") -> None:
        """A picture, for the file NAME.png and the page."""
        self.pictures[name] = png_of(figure)
        self.page.figure(self.pictures[name], caption, alt=name)

    def write(self, out: str | Path) -> None:
        """Print the tables; then write results.json, the pictures and report.html to the folder `out`."""
        print("\n\n".join(self.text), flush=True)  # first: a disk that is full by now cannot take them away
        out = Path(out)
        about = {"git": git_state(), "versions": versions(), "hardware": hardware()}
        own = {"title": self.title, "settings": self.settings, "pictures": list(self.pictures)}
        content = as_json(own | self.content | about)
        for name in pictures_of_earlier(out) - self.pictures.keys():
            (out / f"{name}.png").unlink(missing_ok=True)
        write_json(out / "results.json", content)
        if self.outcomes:
            with whole_file(out / FILE) as partial:
                write_outcomes(partial, self.outcomes)
        for name, png in self.pictures.items():
            with whole_file(out / f"{name}.png") as partial:
                partial.write_bytes(png)
        self.page.definitions(content["settings"], "Settings")
        with self.page.folded("Code, versions, hardware"):
            for name in about:
                self.page.definitions(content[name], name.capitalize())
        with whole_file(out / "report.html") as partial:
            partial.write_text(self.page.html(), encoding="utf-8", errors="backslashreplace")
        print(f"written to {out}")


def _as_dicts(differences: Mapping[str, Difference]) -> dict[str, dict[str, float]]:
    return {name: difference._asdict() for name, difference in differences.items()}


def title_of(out: Path) -> str | None:
    """The title of the report in a folder; None where there is none, or no whole one."""
    try:
        return str(json.loads((out / "results.json").read_text(encoding="utf-8"))["title"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def pictures_of_earlier(out: Path) -> set[str]:
    """The pictures that an earlier report wrote to this folder, as its results.json has them."""
    try:
        names = json.loads((out / "results.json").read_text(encoding="utf-8"))["pictures"]
        return {name for name in names if Path(name).name == name}  # never in another folder
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return set()


def numbers_of(result: Any) -> dict[str, Any]:
    """What results.json keeps of a protocol's result, a dataclass.

    All fields but those that are drawn, kept or printed on their own.
    """
    found = {name: value for name, value in asdict(result).items() if name not in NOT_NUMBERS}
    return {
        name: {part: entry for part, entry in value.items() if part not in NOT_NUMBERS}
        if isinstance(value, dict)
        else value
        for name, value in found.items()
    }


def as_json(value: Any) -> Any:
    """The same in what JSON has: lists for arrays, null for what is not finite, text for the rest."""
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)


def in_percent(
    rates: np.ndarray, interval: np.ndarray, enough: np.ndarray | None = None, of: str = "pairs"
) -> list[str]:
    """Such as 97.12 ± 0.30.

    Args:
        enough: whether there are so many that a threshold can have the rate; None: it needs none.
        of: what there are too few of where it has not.
    """
    shares = [f"{100 * rate:.2f} ± {100 * half:.2f}" for rate, half in zip(rates, interval)]
    return shares if enough is None else [share if e else f"too few {of}" for share, e in zip(shares, enough)]
