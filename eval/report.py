"""What an evaluation leaves behind: results.json, pictures, and report.html, a page that needs nothing else.

Two runs on the same model and data write the same results.json, byte for byte: it holds no times. Files are
replaced, never appended to; pictures of an earlier report that this one lacks are removed.
"""

import base64
import io
import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from prettytable import PrettyTable

from utils.files import whole_file, write_json
from utils.plots import STYLE
from utils.run_info import git_state, hardware, versions

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ max-width: 56rem; margin: 2.5rem auto; padding: 0 1.5rem; color: #24292f; background: #fff;
         font: 15px/1.5 system-ui, sans-serif; }}
  h1 {{ font-size: 1.6rem; margin: 0 0 1.5rem; }}
  h2 {{ font-size: 1.05rem; margin: 2.2rem 0 .6rem; }}
  table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
  .wide {{ overflow-x: auto; }}
  th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #d8dee4; white-space: nowrap; }}
  th {{ color: #57606a; font-weight: 600; }}
  th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
  figure {{ margin: 2.2rem 0 0; }}
  figcaption {{ font-weight: 600; font-size: 1.05rem; margin-bottom: .6rem; }}
  img {{ max-width: 100%; }}
  dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; font-size: .85rem; }}
  dt {{ color: #57606a; }}
  dd {{ margin: 0; overflow-wrap: anywhere; }}
  summary {{ color: #57606a; margin-top: 1.6rem; cursor: pointer; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


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
        self.text: list[str] = []  # for the screen
        self.body: list[str] = []  # HTML, for the page

    def note(self, text: str) -> None:
        """A paragraph: a convention, a warning."""
        text = " ".join(text.split())
        self.text.append(textwrap.fill(text, 100))
        self.body.append(f"<p>{escape(text)}</p>")

    def table(self, table: PrettyTable, caption: str = "") -> None:
        """A table, for screen and page."""
        self.text.append(f"{caption}\n{table}" if caption else str(table))
        heading = f"<h2>{escape(caption)}</h2>\n" if caption else ""
        self.body.append(f'{heading}<div class="wide">{table.get_html_string()}</div>')

    def numbers(self, key: str, content: Any) -> None:
        """An entry of results.json, in full precision: numbers, NumPy's too, text, lists, dicts."""
        self.content[key] = content

    def picture(self, name: str, figure: Figure, caption: str = "") -> None:
        """A picture, for the file NAME.png and the page."""
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):  # some parts of a figure are only made when it is drawn
            figure.savefig(buffer, format="png", metadata={"Software": None})
        self.pictures[name] = buffer.getvalue()
        data = base64.b64encode(buffer.getvalue()).decode()
        title = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        image = f'<img alt="{escape(caption or name)}" src="data:image/png;base64,{data}">'
        self.body.append(f"<figure>{title}{image}</figure>")

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
        for name, png in self.pictures.items():
            with whole_file(out / f"{name}.png") as partial:
                partial.write_bytes(png)
        settings, *rest = (
            f"<h2>{name.capitalize()}</h2>\n{definitions(content[name])}" for name in ("settings", *about)
        )
        details = ["<details><summary>Code, versions, hardware</summary>", *rest, "</details>"]
        body = "\n".join([*self.body, settings, *details])
        with whole_file(out / "report.html") as partial:
            page = PAGE.format(title=escape(self.title), body=body)
            partial.write_text(page, encoding="utf-8", errors="backslashreplace")
        print(f"written to {out}")


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

    All fields but `curve`, which is drawn, and `calibration`, which has an entry of its own.
    """
    return {name: value for name, value in asdict(result).items() if name not in ("curve", "calibration")}


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


def definitions(entries: Mapping[str, Any]) -> str:
    """A list of names and values as HTML."""
    rows = (
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(in_words(value))}</dd>"
        for name, value in entries.items()
    )
    return f"<dl>{''.join(rows)}</dl>"


def in_words(value: Any) -> str:
    """A value of JSON for people to read."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {in_words(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return "; ".join(map(in_words, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return str(value)


def in_percent(rates: np.ndarray, interval: np.ndarray) -> list[str]:
    """Such as 97.12 ± 0.30."""
    return [f"{100 * rate:.2f} ± {100 * half:.2f}" for rate, half in zip(rates, interval)]
