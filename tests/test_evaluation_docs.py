"""docs/evaluation.md: its commands are understood, and what it names is in the code."""

import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from backbones import MODEL_NAMES
from eval.ijb.protocol import CONVENTIONS, convention_of
from eval.robustness.perturbations import PERTURBATIONS, parse_choices
from eval.run import arguments

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "evaluation.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(
    r"^    (?:python|torchrun --nproc_per_node=\d+) ((?:eval|tools)/\w+\.py .*)$", TEXT, re.MULTILINE
)
MAKE_BIN = ROOT / "tools" / "make_bin.py"
SHARED = [ROOT / "eval" / "run.py", ROOT / "eval" / "models.py"]  # what adds options for all
SCRIPTS = [path for path in sorted((ROOT / "eval").glob("*.py")) if "run_script(main)" in path.read_text()]


class Parsed(Exception):
    """Ends a script where it has read its command line."""


def parse(command: str, monkeypatch) -> argparse.Namespace:
    """What a script makes of a command; SystemExit where it does not understand it."""
    script, *words = shlex.split(command)
    understand = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser):
        parser.allow_abbrev = False
        raise Parsed(understand(parser))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(Parsed) as parsed:
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).main()
    return parsed.value.args[0]


def rows(section: str, heading: str) -> list[list[str]]:
    """The cells of the rows below the table head that begins so."""
    table = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", SECTIONS[section], re.M)[1]
    cells = [row.strip("| ").split(" | ") for row in table.splitlines()]
    return [[name.strip("`"), *others] for name, *others in cells]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_understood(command, monkeypatch):
    args = parse(command, monkeypatch)
    assert getattr(args, "network", None) in (None, *MODEL_NAMES)
    for name in getattr(args, "convention", ()):
        convention_of(name)
    if command.startswith("eval/eval_robustness.py"):
        parse_choices(args.only)


def test_a_misspelt_option_would_be_noticed(monkeypatch):
    with pytest.raises(SystemExit):
        parse("eval/eval_ijb.py --model m.pt --data d --conventions adaface", monkeypatch)


def test_no_command_is_overlooked():
    assert len(COMMANDS) == len(re.findall(r"^    \S*(?:python|torchrun)", TEXT, re.MULTILINE))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_is_in_the_overview_and_has_its_section_with_a_command(script):
    row = re.search(rf"^\| \[(.+?)\]\(#\S+\) \| `eval/{script.name}` \|", TEXT, re.MULTILINE)
    assert row, f"docs/evaluation.md's overview lacks a row `| [NAME](#section) | `eval/{script.name}` | … |`"
    assert f"    python eval/{script.name} " in SECTIONS[row[1]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_is_in_the_readme_and_has_tests(script):
    assert f"| `python eval/{script.name}` |" in (ROOT / "README.md").read_text(), (
        "README: Evaluate lacks a row"
    )
    assert (ROOT / f"tests/test_{script.name}").is_file()


def test_the_table_of_options_is_complete():
    parser = arguments("")
    options = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", parser.format_help(), re.MULTILINE)) - {"--help"}
    assert {row[0] for row in rows("All scripts", "option")} == options
    defaults = {row[0]: row[1] for row in rows("All scripts", "option")}
    assert f"({parser.get_default('batch_size')})" in defaults["--batch-size"]
    assert f"`{parser.get_default('precision')}` (default)" in defaults["--precision"]
    assert f"({parser.get_default('seed')})" in defaults["--seed"]


def test_every_option_that_is_named_is_one_of_some_script():
    named = set(re.findall(r"`(--[a-z-]+)`", TEXT))
    known = {word for script in [*SHARED, *SCRIPTS, MAKE_BIN] for word in options_in(script)}
    assert "--flip" in named
    assert named <= known


def options_in(script: Path) -> list[str]:
    """The options that a script adds to its parser, data and model in a loop over their names."""
    return ["--model", "--data", *re.findall(r'\badd(?:_argument)?\(\s*"(--[a-z-]+)"', script.read_text())]


def test_conventions_have_the_switches_of_the_code():
    documented = {name: switches for name, switches, _ in rows("IJB-B and IJB-C", "`--convention`")}
    assert {name: str(convention_of(name)) for name in documented} == documented
    assert set(CONVENTIONS) <= set(documented)


def test_the_table_of_perturbations_is_the_codes():
    documented = {
        name: (scale.split(",")[0], amounts) for name, scale, amounts, _ in rows("Robustness", "`--only`")
    }
    assert documented == {
        name: (f"{kind.clean:g} to {kind.worst:g}", ", ".join(f"{amount:g}" for amount in kind.amounts))
        for name, kind in PERTURBATIONS.items()
    }
    assert (
        f"A = {sum(len(kind.amounts) for kind in PERTURBATIONS.values())} by default"
        in SECTIONS["Robustness"]
    )
