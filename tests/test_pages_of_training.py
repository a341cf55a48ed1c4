"""Pages for newcomers: their commands run, on a few drawn people; the links of all pages lead somewhere."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

from helpers.evaluation_runs import BINS
from helpers.train_runs import train
from tools.demo.album import Album, Request
from utils.config import get_config
from utils.run_info import ROOT

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "docs").glob("*.md")}
PAGES |= {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}
NEWCOMERS = [f"docs/{name}.md" for name in ("start", "data", "choosing", "troubleshooting", "runs")]
COMMAND = re.compile(r"^ {4,6}((?:python|mkdir|mv) .+?)(?: {2,}#.*)?$", re.MULTILINE)
STEPS = [(page, command) for page in NEWCOMERS for command in COMMAND.findall(PAGES[page])]
# What a training of the pages is shrunk to.
SMALL = "network=mbf network_args.blocks=[1,1,1,1] network_args.scale=1 embedding_size=32"
SMALL += (
    " batch_size=4 num_steps=2 warmup_epoch=0 precision=fp32 num_workers=0 tensorboard=false report=false"
)
SHRUNK = {word.split("=")[0] for word in SMALL.split()} | {"num_epoch", "milestones"}
PEOPLE = "ann bob cem raj sol tom uma".split()


def is_training(command: str) -> bool:
    return command.startswith("python train_v2.py")


def shrunk(command: str) -> list[str]:
    """The arguments of a training, with what makes it small in place of what makes it long."""
    config, *settings = shlex.split(command)[2:]
    kept = [word for word in settings if word.split("=")[0] not in SHRUNK]
    if config.startswith("configs/") and "output=" not in command:
        kept.append(f"output=work_dirs/{Path(config).name}")  # not in this repository
    return [config, *kept, *SMALL.split()]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[tuple[str, str], tuple[int, str]]:
    """Each command of the pages, run: (exit code, output). All trainings in one process, amid the others."""
    folder, done = tmp_path_factory.mktemp("pages"), {}
    album = Album(seed=5)
    for person, name in enumerate(PEOPLE):
        for number in range(1, 4):
            album.add(person, Request(folder / "photographs" / name / f"{number}.jpg", 0.0, loose=True))
    album.draw(map)
    same = [f"{name}/1.png,{name}/{number}.png,1" for name in PEOPLE for number in (2, 3)]
    different = [f"{a}/1.png,{b}/{n}.png,0" for a, b in pairwise(PEOPLE) for n in (2, 3)]
    (folder / "pairs.csv").write_text("\n".join(same + different))
    rows = [f"faces_112x112/{name}/{number}.png,{name}" for name in PEOPLE for number in (1, 2, 3)]
    (folder / "faces.csv").write_text("\n".join(["path,identity", *rows]))
    first_of_training = {page: i for i, (page, c) in reversed(list(enumerate(STEPS))) if is_training(c)}
    before = [
        step for i, step in enumerate(STEPS) if step[0] in NEWCOMERS[:2] and i < first_of_training[step[0]]
    ]
    trainings = [step for step in STEPS if is_training(step[1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done |= {step: run(step[1], patch) for step in before}
        shutil.copy(BINS / "py2.bin", folder / "data" / "mine" / "pairs.bin")
        done |= zip(trainings, train(*(shrunk(command) for _, command in trainings), timeout=300))
        done |= {step: run(step[1], patch) for step in STEPS if step not in done}
    return done


def run(command: str, patch: pytest.MonkeyPatch) -> tuple[int, str]:
    """A command that trains nothing, in this process: (exit code, output)."""
    program, script, *words = shlex.split(command)
    if program != "python":
        finished = subprocess.run([program, script, *words], capture_output=True, text=True, timeout=20)
        return finished.returncode, finished.stdout + finished.stderr
    # To start other processes takes seconds.
    alone = ["--workers", "0"] if script in ("tools/align.py", "tools/make_rec.py") else []
    patch.setattr(sys, "argv", [script, *words, *alone])
    importlib.import_module(script.removesuffix(".py").replace("/", ".")).main()
    return 0, ""


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{Path(step[0]).stem}: {step[1][:60]}")
def test_a_command_of_the_page_runs(step, outcomes):
    code, output = outcomes[step]
    assert code == 0, output
    if is_training(step[1]) and "resume=auto" not in step[1]:
        assert "step 2/2" in output


@pytest.mark.parametrize("page", NEWCOMERS)
def test_no_command_of_the_page_is_overlooked(page):
    found = [command for of_page, command in STEPS if of_page == page and command.startswith("python")]
    assert len(found) == len(re.findall(r"^ +\S*(?:python|torchrun)", PAGES[page], re.MULTILINE))


TRAININGS = [
    (options, arguments)
    for page in ("README.md", "docs/clusters.md")
    for options, arguments in re.findall(
        r"^    .*?(?:torchrun (.*)|python )train_v2\.py (configs/.+?)(?: {2,}#.*)?$",
        PAGES[page],
        re.MULTILINE,
    )
]


@pytest.mark.parametrize(("options", "arguments"), TRAININGS)
def test_a_training_that_takes_a_gpu_or_a_cluster_is_understood(options, arguments):
    config, *settings = shlex.split(arguments)
    get_config(config, settings)
    assert parse_args([*options.split(), "train_v2.py"]).training_script == "train_v2.py"


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        file, _, anchor = link.partition("#")
        if file.startswith("http"):
            continue
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_the_readme_leads_to_every_page():
    missing = [name for name in PAGES if name.startswith("docs/") and f"]({name}" not in PAGES["README.md"]]
    assert not missing, f"README.md has no link to {', '.join(missing)}"
