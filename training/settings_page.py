"""All settings of configs/base.py on one page, as `train_v2.py --settings` prints them."""

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator
from itertools import groupby

from configs import base
from utils import typed_values
from utils.settings import DEFAULTS, KINDS

WIDTH = 100  # columns; a narrower terminal has its own


def settings_page() -> str:
    """Each setting with its default, its type and what it means, in the groups of base.py."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    paragraphs = []
    for group, settings in groupby(documented_settings(), key=lambda setting: setting[0]):
        paragraphs.append(f"---- {group} ----\n")
        for _, name, meaning in settings:
            default = f"{name}={DEFAULTS[name]!r}"
            paragraphs.append(_wrap(f"{default:32}  {typed_values.describe(KINDS[name])}", width, indent=2))
            paragraphs.append(_wrap(meaning, width, indent=6) + "\n")
    return "\n".join(paragraphs)


def documented_settings() -> Iterator[tuple[str, str, str]]:
    """The group, name and comment of each setting, read from the source of base.py."""
    group, comment = "", []
    for line in inspect.getsource(base.Settings).splitlines():
        line = line.strip()
        if line.startswith("# ----"):
            group = line.strip("# -")
        elif line.startswith("# "):
            comment.append(line[2:])
        elif found := re.match(r"(\w+): ", line):
            yield group, found[1], " ".join(comment)
            comment = []


def _wrap(text: str, width: int, indent: int) -> str:
    indents = dict.fromkeys(("initial_indent", "subsequent_indent"), " " * indent)
    return textwrap.fill(text, width, **indents, break_on_hyphens=False)
