"""README.md, docs/presets.md and docs/code.md are complete and say what the code says."""

import inspect
import re
from pathlib import Path

import pytest

from losses import LOSSES, REGULARIZERS
from utils.config import get_config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PRESETS = (ROOT / "docs" / "presets.md").read_text()
CODE = (ROOT / "docs" / "code.md").read_text()
LOSSES_AND_REGULARIZERS = LOSSES | REGULARIZERS


def table(page: str, heading: str = "") -> dict[str, list[str]]:
    """The rows whose first cell is a `name`, of a page or of what stands under a heading: name -> cells."""
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0] if heading else page
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows}


def defaults(of: type) -> str:
    """`s=64 m=0.5 …`, as the table shows settings; focal is explained once, below the table."""
    settings = inspect.signature(of).parameters.values()
    shown = [s for s in settings if s.name != "focal"]
    return " ".join(
        f"{s.name}={s.default:g}" if isinstance(s.default, float) else f"{s.name}={s.default}" for s in shown
    )


@pytest.mark.parametrize("name", LOSSES_AND_REGULARIZERS)
def test_the_readme_shows_each_loss_with_its_defaults(name):
    right = defaults(LOSSES_AND_REGULARIZERS[name]) or "–"
    row = table(README, "Losses").get(name)
    assert row, (
        f"the table of losses in README.md needs a row: | `{name}` | its logit | `{right}` | [Paper](link) |"
    )
    assert row[2].replace("`", "") == right


def test_the_readme_names_no_loss_that_does_not_exist():
    assert set(table(README, "Losses")) == set(LOSSES_AND_REGULARIZERS)


def test_every_preset_has_its_row():
    presets = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "base"}
    rows = table(PRESETS)
    assert "demo_*" in rows
    demos = {name for name in presets if name.startswith("demo_")}
    assert set(rows) == presets - demos | {"demo_*"}


@pytest.mark.parametrize("name", [name for name in table(PRESETS) if "*" not in name])
def test_the_network_method_and_batch_in_the_row_of_a_preset_are_its_own(name):
    _, _, network, method, batch, _ = table(PRESETS)[name]
    cfg = get_config(name)
    terms = [cfg.loss, *(term for term, _ in cfg.regularizers), *(["aroface"] if cfg.aroface else [])]
    assert network.split("`")[1] == cfg.network
    assert re.findall("`(.*?)`", method) == terms
    assert "any" in batch or int(batch.split(" × ")[1].split(",")[0]) == cfg.batch_size


def test_links_and_named_files_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    commands = re.findall(r"(?:python|train_v2\.py) ((?:tools|eval|configs|benchmarks)/\w+(?:\.py)?)", README)
    files = [name if name.endswith(".py") else f"{name}.py" for name in commands]
    assert links
    assert files
    missing = [name for name in [*links, *files] if not (ROOT / name).exists()]
    assert not missing


def tree() -> list[str]:
    """The paths of the tree of docs/code.md: names by indentation, each with its comment."""
    block = CODE[CODE.index("\n    ") :]
    paths, parents = [], {}
    for indent, name, _ in re.findall(r"^( +)(\S+)  +(\S.*)$", block, re.MULTILINE):
        parents[len(indent)] = parents.get(len(indent) - 2, "") + name
        paths.append(parents[len(indent)])
    assert len(paths) == len(block.strip().splitlines()), "each line of the tree is a name and a comment"
    return paths


def test_every_path_of_the_tree_exists_and_is_there_once():
    paths = tree()
    assert not [path for path in paths if not (ROOT / path).exists()]
    assert not [path for path in paths if path.endswith("/") != (ROOT / path).is_dir()]
    assert len(paths) == len(set(paths))


def test_the_tree_has_all_code_at_the_top():
    code = {path.name for path in ROOT.glob("*.py")} | {
        f"{path.parent.name}/" for path in ROOT.glob("*/*.py")
    }
    missing = code - set(tree())
    assert not missing, f"docs/code.md lacks {', '.join(sorted(missing))}"
