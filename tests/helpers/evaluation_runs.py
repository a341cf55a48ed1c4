"""What the tests of evaluation share: images, a cheap network, a small model in a file, a script's run."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from backbones import get_model, save_backbone

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
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
