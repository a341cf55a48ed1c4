"""What the tests of evaluation share: images, a cheap network, a small model in a file, a script's run."""

import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from backbones import get_model, save_backbone
from helpers.forks import ENVIRONMENT, in_fork

ROOT = Path(__file__).parents[2]
GOLDENS = Path(__file__).parents[1] / "goldens"
BINS = GOLDENS / "bin"


def png(colour=(200, 100, 50), height=112, width=112) -> bytes:
    """A plain image; the colour is RGB."""
    image = np.full((height, width, 3), colour[::-1], np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


class Fake(nn.Module):
    """A cheap network that sees position, colour and, in training mode, the other images of its batch."""

    def __init__(self, num_features=8):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3 * 7 * 7, num_features)
        generator = torch.Generator().manual_seed(0)
        self.norm.running_mean.copy_(torch.randn(3, generator=generator))
        for parameter in self.linear.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, images):
        assert images.shape[1:] == (3, 112, 112)
        return self.linear(nn.functional.avg_pool2d(self.norm(images), 16).flatten(1))


def save_small_model(path: Path, seed: int = 0) -> Path:
    """A small MobileFaceNet with random weights; returns the path."""
    torch.manual_seed(seed)
    shape = {"blocks": (1, 1, 1, 1), "scale": 1}
    backbone = get_model("mbf", num_features=32, **shape)
    save_backbone(path, backbone, network="mbf", num_features=32, network_args=shape)
    return path


def run(*command, cwd: Path) -> subprocess.CompletedProcess:
    """A script with its arguments, in a fork of a process that has imported torch; else what Python runs."""
    words = list(map(str, command))
    if words[0].endswith(".py"):
        done = in_fork("helpers.evaluation_runs.run_script_in_fork", words, str(cwd), timeout=120)
        return subprocess.CompletedProcess(words, *done)
    environment = {**ENVIRONMENT}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def run_script_in_fork(words: list[str], cwd: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `python SCRIPT ARGUMENTS` in that folder."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            os.chdir(cwd)
            sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
            try:
                runpy.run_path(words[0], run_name="__main__")
                code = 0
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0), err.seek(0)
        return code, out.read().decode(), err.read().decode()
