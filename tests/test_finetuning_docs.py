"""docs/finetuning.md: its commands run, on small weights and few images; its tables name what there is."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from backbones import get_model, save_backbone
from configs.base import Settings
from eval import verification
from helpers.train_runs import train, write_faces
from utils.run_info import ROOT
from utils.settings import INIT_HEADS

TEXT = (ROOT / "docs" / "finetuning.md").read_text()
COMMANDS = re.findall(r"^    python train_v2.py (.+)$", TEXT, re.M)
NETWORK = dict(width=16, depth=2, mask_ratio=0.0, drop_path_rate=0.0)
SMALL = ["network=vit_t", f"network_args={NETWORK}", "embedding_size=16", "num_steps=6", "batch_size=8"]
SMALL += "num_workers=0 precision=fp32 tensorboard=false report=false num_classes=None num_image=None".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Faces and the weights of a network."""
    folder = tmp_path_factory.mktemp("docs")
    write_faces(folder / "faces")
    torch.manual_seed(3)
    network = get_model("vit_t", num_features=16, **NETWORK)
    network(torch.rand(16, 3, 112, 112))
    save_backbone(folder / "weights.pt", network, network="vit_t", num_features=16, network_args=NETWORK)
    return folder


@pytest.fixture(scope="module")
def outcomes(folder) -> dict[str, tuple[int, str]]:
    """Each command of training with its files replaced by small ones: (exit code, output)."""
    lines, faces, weights = [], folder / "faces", folder / "weights.pt"
    for i, command in enumerate(COMMANDS):
        preset, *settings = shlex.split(command.replace("data/mine/pairs.bin", f"{faces}/pairs.bin"))
        kept = [s for s in settings if not s.startswith(("rec=", "network=", "pretrained=", "teacher="))]
        files = [f"{key}={weights}" for key in ("pretrained", "teacher") if f" {key}=" in command]
        sets = [] if any("val_targets" in setting for setting in kept) else ["val_targets=[]"]
        lines.append([preset, *SMALL, f"rec={faces}", *kept, *files, *sets, f"output={folder}/{i}"])
    return dict(zip(COMMANDS, train(*lines, timeout=300)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_trains(command, outcomes):
    code, output = outcomes[command]
    assert code == 0, output
    assert "step 6/6" in output


def test_the_evaluation_before_training_runs(folder, monkeypatch, capsys):
    (command,) = set(re.findall(r"^    python (.+)$", TEXT, re.M)) - {f"train_v2.py {c}" for c in COMMANDS}
    script, *words = shlex.split(command)
    assert script == "eval/verification.py"
    files = {"released.pth": folder / "weights.pt", "data/mine/pairs.bin": folder / "faces/pairs.bin"}
    monkeypatch.setattr(sys, "argv", [script, *(str(files.get(word, word)) for word in words)])
    verification.main()
    assert "| pairs" in capsys.readouterr().out


def test_the_presets_of_the_page_exist_and_each_has_its_command():
    named = set(re.findall(r"configs/(\w+)", TEXT)) | set(re.findall(r"\[`(\w+_\w+)`\]", TEXT))
    assert named == {"finetune_r100", "lowres_r100_lora", "compatible_r50"}
    assert {command.split()[0] for command in COMMANDS} == {f"configs/{name}" for name in named}


def test_the_tables_name_settings_and_ways_to_start():
    rows = [line.strip("| ").split(" | ")[0] for line in TEXT.splitlines() if line.startswith("| `")]
    settings = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - set(INIT_HEADS)
    assert settings <= Settings.__annotations__.keys() | {"finetune_r100"}
    assert set(INIT_HEADS) <= {row.strip("`") for row in rows}
