"""README's path and docs/use.md, export.md and data.md: every command and every piece of Python in them runs.

But for the commands that train, which other tests run.
"""

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import torch

from backbones import get_model
from helpers.evaluation_runs import BINS, ROOT, save_small_model
from helpers.onnx_files import write_means

PAGES = {
    name: (ROOT / name).read_text() for name in ("README.md", "docs/use.md", "docs/export.md", "docs/data.md")
}
PAGES["README.md"] = PAGES["README.md"].split("## From photographs to a decision\n")[1].split("\n## ")[0]
PART = re.compile(
    r"^    python ((?:tools|eval)/\w+\.py [^\n]*?)(?: {2,}#[^\n]*)?$|^```python\n(.*?)^```",
    re.MULTILINE | re.DOTALL,
)  # a command without its comment, or a piece of Python
PHOTOGRAPHS = Path(skimage.__file__).parent / "data"


def write_photographs(folder: Path) -> None:
    """Two people whom scikit-image shows, four times each, in another light."""
    for person, source in (("ann", "astronaut.png"), ("bob", "camera.png")):
        (folder / person).mkdir(parents=True)
        picture = cv2.imread(str(PHOTOGRAPHS / source))
        for number, gain in enumerate((1.0, 0.8, 0.6, 0.9), start=1):
            changed = np.clip(picture * gain + 10, 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / person / f"{number}.jpg"), changed)


def write_people(folder: Path) -> None:
    """15 people of two 112x112 images, of noise."""
    random = np.random.default_rng(0)
    for person in range(15):
        (folder / f"p{person}").mkdir(parents=True)
        for number in range(2):
            coarse = random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"p{person}" / f"{number}.jpg"), cv2.resize(coarse, (112, 112)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a person of the pages has before the first command."""
    root = tmp_path_factory.mktemp("pages")
    write_photographs(root / "photographs")
    write_people(root / "people")
    (root / "strangers").mkdir()
    for number, path in enumerate(sorted((root / "people").rglob("0.jpg"))):
        shutil.copy(path, root / "strangers" / f"{number}.jpg")
    for name in "ab":
        shutil.copy(root / "people" / "p0" / f"{'ab'.index(name)}.jpg", root / f"{name}.jpg")
    (root / "small_crops").mkdir()
    face = cv2.imread(str(PHOTOGRAPHS / "astronaut.png"))[56:180, 180:270]
    cv2.imwrite(str(root / "small_crops" / "1_1.jpg"), cv2.resize(face, (26, 36)))
    (root / "work_dirs" / "demo").mkdir(parents=True)
    save_small_model(root / "work_dirs" / "demo" / "model.pt")
    torch.save(get_model("mbf").state_dict(), root / "theirs.pth")
    write_means(root / "foreign.onnx", ["n", 3, 112, 112])
    shutil.copy(BINS / "py2.bin", root / "pairs.bin")
    lines = [f"people/p{person}/{number}.jpg,p{person}\n" for person in range(3) for number in range(2)]
    (root / "faces.csv").write_text("".join(["path,identity\n", *lines]))
    (root / "pairs.csv").write_text("ann/1.png,ann/2.png,1\nann/1.png,bob/1.png,0\n")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_everything_on_the_page_runs_in_its_order(page, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    parts = PART.findall(PAGES[page])
    assert (
        len(parts)
        == len(re.findall(r"^(?:    \S*python (?!train_v2)|```python)", PAGES[page], re.MULTILINE))
        > 3
    )
    for command, python in parts:
        if python:
            exec(compile(python, page, "exec"), {})
            continue
        script, *words = shlex.split(command)
        monkeypatch.setattr(sys, "argv", [script, *words])
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).main()
        assert capsys.readouterr().out.strip(), f"{command} says nothing"
    for out in ("aligned", "release"):  # another page makes them again
        shutil.rmtree(folder / out, ignore_errors=True)
    assert not [path for path in folder.rglob("*") if path.name.endswith(".partial")]


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_the_page_names_is_one_of_a_tool(page):
    named = set(re.findall(r"`(--[a-z-]+)[` ]", PAGES[page]))
    sources = [*(ROOT / "tools").rglob("*.py"), ROOT / "eval" / "models.py"]
    known = {word for path in sources for word in re.findall(r'"(--[a-z-]+)"', path.read_text())}
    assert named <= known, named - known
