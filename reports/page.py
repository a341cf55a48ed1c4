"""An HTML page that needs nothing else: tables, notes, pictures, faces, in the order they come in."""

import base64
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from prettytable import PrettyTable

from reports.style import STYLE

JPEG_QUALITY = 85
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ max-width: 60rem; margin: 2.5rem auto; padding: 0 1.5rem; color: #24292f; background: #fff;
         font: 15px/1.5 system-ui, sans-serif; }}
  h1 {{ font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }}
  .about {{ color: #57606a; margin: .2rem 0 1.5rem; overflow-wrap: anywhere; }}
  h2 {{ font-size: 1.05rem; margin: 2.2rem 0 .6rem; }}
  table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
  .wide {{ overflow-x: auto; }}
  th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #d8dee4; white-space: nowrap; }}
  .texts td {{ white-space: normal; overflow-wrap: anywhere; text-align: left; vertical-align: top; }}
  .texts td:first-child {{ white-space: nowrap; }}
  .texts th {{ text-align: left; }}
  th {{ color: #57606a; font-weight: 600; }}
  th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
  figure {{ margin: 2.2rem 0 0; }}
  figcaption {{ font-weight: 600; font-size: 1.05rem; margin-bottom: .6rem; }}
  img {{ max-width: 100%; }}
  dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; font-size: .85rem; }}
  dt {{ color: #57606a; }}
  dd {{ margin: 0; overflow-wrap: anywhere; }}
  .charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr));
             gap: 0 1.5rem; }}
  .charts figure {{ margin: 1rem 0 0; }}
  .faces {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .8rem; }}
  .faces.pairs {{ grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); }}
  .faces figure {{ margin: 0; }}
  .faces img {{ width: 100%; image-rendering: auto; }}
  .faces figcaption {{ font-weight: 400; font-size: .75rem; line-height: 1.35; margin: .2rem 0 0;
                      color: #57606a; overflow-wrap: anywhere; }}
  summary {{ color: #57606a; margin-top: 1.6rem; cursor: pointer; }}
</style>
<h1>{title}</h1>
{about}
{body}
</html>
"""


class Page:
    """Collects the parts of a page; `html` puts them together.

    Args:
        title: stands at the top and in the browser's tab.
        about: a line below the title: of which model, of which run.
    """

    def __init__(self, title: str, about: str = ""):
        self.title, self.about = title, about
        self.body: list[str] = []  # HTML

    def heading(self, text: str) -> None:
        """The heading of what follows."""
        self.body.append(f"<h2>{escape(text)}</h2>")

    def note(self, text: str) -> None:
        """A paragraph; spaces and line ends in it count as one space."""
        self.body.append(f"<p>{escape(' '.join(text.split()))}</p>")

    def table(self, table: PrettyTable, caption: str = "", *, texts: bool = False) -> None:
        """A table: its first column stands left, the others right.

        Args:
            texts: the cells are texts, such as paths: they stand left, and long ones are broken into lines.
        """
        if caption:
            self.heading(caption)
        self.body.append(f'<div class="wide{" texts" if texts else ""}">{table.get_html_string()}</div>')

    def definitions(self, entries: Mapping[str, Any], caption: str = "") -> None:
        """Names and values, one a line."""
        if caption:
            self.heading(caption)
        self.body.append(definitions(entries))

    def figure(self, png: bytes, caption: str = "", alt: str = "") -> None:
        """A picture as wide as the page."""
        title = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self.body.append(f"<figure>{title}{picture(png, caption or alt)}</figure>")

    @contextmanager
    def folded(self, summary: str) -> Iterator[None]:
        """What is added inside is shown on a click."""
        self.body.append(f"<details><summary>{escape(summary)}</summary>")
        yield
        self.body.append("</details>")

    def charts(self, figures: Mapping[str, Figure]) -> None:
        """Figures by title, side by side where the screen has room, else one below the other."""
        parts = (
            f"<figure><figcaption>{escape(title)}</figcaption>{picture(png_of(figure), title)}</figure>"
            for title, figure in figures.items()
        )
        self.body.append(f'<div class="charts">{"".join(parts)}</div>')

    def faces(self, images: list[tuple[bytes, str]], *, pairs: bool = False) -> None:
        """JPEG images, each with a caption below it; `pairs`: each shows two faces side by side."""
        parts = (
            f"<figure>{picture(jpeg, caption, 'jpeg')}<figcaption>{escape(caption)}</figcaption></figure>"
            for jpeg, caption in images
        )
        self.body.append(f'<div class="faces{" pairs" * pairs}">{"".join(parts)}</div>')

    def html(self) -> str:
        """The whole page."""
        about = f'<p class="about">{escape(self.about)}</p>' if self.about else ""
        return PAGE.format(title=escape(self.title), about=about, body="\n".join(self.body))


def png_of(figure: Figure) -> bytes:
    """A figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):  # some parts of a figure are only made when it is drawn
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def jpeg_of(image: np.ndarray) -> bytes:
    """An image `(H, W, 3)` uint8 RGB as JPEG, small enough for a page of many."""
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def picture(content: bytes, alt: str, form: str = "png") -> str:
    """An image inside the page."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{escape(alt)}" src="data:image/{form};base64,{data}">'


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
