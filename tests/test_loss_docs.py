"""docs/losses.md has a section for every loss and regulariser, its tables say what the code says, and its
pictures show all losses. What is missing for a new loss, these tests print.
"""

import inspect
import math
import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from losses import LOSSES, REGULARIZERS, build_loss, build_perturbation, build_regularizer
from losses.aroface import AlignmentPerturbation
from tools.helpers.loss_pictures import argument_parser
from tools.helpers.loss_views import Choice
from utils import typed_values

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEXT = (DOCS / "losses.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^##? |\Z)", TEXT, re.MULTILINE | re.DOTALL))
DOCUMENTED = {
    **{name: (loss, partial(build_loss, name)) for name, loss in LOSSES.items()},
    **{name: (term, partial(build_regularizer, name)) for name, term in REGULARIZERS.items()},
    "aroface": (AlignmentPerturbation, build_perturbation),
}
OUT_OF_RANGE = (-7, math.inf, math.nan, "nothing")  # what has a range refuses one of these


def allowed(build, setting: inspect.Parameter) -> str:
    """What the error says that a value has to be, or what its type says, where all of that is allowed."""
    for value in OUT_OF_RANGE:
        try:
            build(**{setting.name: value})
        except ValueError as error:
            if found := re.search(rf"\b{setting.name}=.* is out of range: it has to be (.*)$", str(error)):
                return found[1]
    return typed_values.describe(setting.annotation)


def settings(name: str) -> list[str]:
    """`| setting | default | allowed |` of each setting but focal, which all losses have."""
    of, build = DOCUMENTED[name]
    rows = []
    for setting in inspect.signature(of).parameters.values():
        default = setting.default
        if setting.name != "focal":
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            rows.append(f"| `{setting.name}` | {shown} | {allowed(build, setting)} |")
    return rows


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_table_of_settings_is_the_codes(name):
    right = settings(name)
    table = (
        "the right table is\n| setting | default | allowed | what it is |\n|---|---|---|---|\n"
        + "\n".join(right)
    )
    assert name in SECTIONS, (
        f"docs/losses.md needs a section '## {name}': formula, paper, and a table; {table}"
    )
    rows = [line for line in SECTIONS[name].splitlines() if line.startswith("| `")]
    documented = [re.match(r"(\|[^|]+){3}\|", row)[0] for row in rows]
    assert documented == right, table
    assert all(row.split(" | ")[3].strip("| ") for row in rows), "a setting without a word on what it is"


def test_every_section_is_of_something_that_exists():
    others = {"Notation", "Pictures"}
    unknown = set(SECTIONS) - others - set(DOCUMENTED)
    assert not unknown, f"docs/losses.md has a section of no loss, regulariser or ARoFace: {unknown}"


@pytest.mark.parametrize("name", sorted(set(DOCUMENTED) - {"softmax", "ndr", "combined"}))
def test_every_published_method_has_its_paper(name):
    paper = re.search(r"\*[^*]{20,}\*,\s[^<]*\d{4},\s<https://[^>]+>", SECTIONS.get(name, ""))
    assert paper, (
        f"the section '## {name}' of docs/losses.md names its paper so: *Title*, venue year, <https://...>"
    )


def test_pictures_are_there_and_small():
    pages = [page.read_text() for page in sorted(DOCS.glob("*.md"))]
    pictures = [name for page in pages for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)]
    assert {DOCS / name for name in pictures} == set((DOCS / "images").iterdir())
    for name in pictures:
        limit = 500_000 if name.endswith(".gif") else 250_000
        assert (DOCS / name).stat().st_size < limit, name


COMMANDS = re.findall(r"^    python (tools/(?:decision|loss)_\S+) (.*)$", TEXT, re.MULTILINE)


def parsed(arguments: str):
    parser = argument_parser("")
    parser.add_argument("--gradient-scale", action="store_true")
    return parser.parse_args(shlex.split(arguments))


def test_the_commands_of_the_pictures_are_understood():
    assert len(COMMANDS) == 6
    for script, arguments in COMMANDS:
        assert (DOCS.parent / script).is_file()
        args = parsed(arguments)
        assert args.out or args.gif


def of_docs(arguments: str) -> Path | None:
    """The PNG of docs/images that a command draws, where there is one."""
    name = parsed(arguments).out
    return DOCS / "images" / name if name and (DOCS / "images" / name).exists() else None


@pytest.mark.parametrize(("script", "arguments"), [c for c in COMMANDS if of_docs(c[1])])
def test_the_pictures_show_the_losses_that_their_commands_draw(script, arguments):
    with Image.open(of_docs(arguments)) as picture:
        shown = picture.text["Title"].split("; ")
    wanted = [str(Choice.read(text)) for text in parsed(arguments).losses or LOSSES]
    again = f"cd docs/images && python ../../{script} {arguments}"
    assert shown == wanted, f"losses changed since this picture was drawn; draw it again: {again}"
