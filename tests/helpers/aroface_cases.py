"""A small backbone, a head and images for the tests of ARoFace."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import aroface, build_loss
from losses.aroface import AlignmentPerturbation, aroface_warp
from partial_fc import PartialFC

SIDE = 16


def make_backbone(normalize: bool = True) -> nn.Sequential:
    """A small network that, like the real ones, ends in a BatchNorm over the batch alone."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten()]
    layers += [nn.Linear(6 * (SIDE // 2) ** 2, 8), nn.BatchNorm1d(8)]
    return nn.Sequential(*(layer for layer in layers if normalize or "Norm" not in type(layer).__name__))


def make_head(loss: str = "arcface", **settings) -> PartialFC:
    return PartialFC(build_loss(loss), 8, 10, **settings)


def batch(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth images, so that a small change of a warp is a small change of the pixels; labels count up."""
    noise = torch.randn(size, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    images = F.interpolate(noise, (SIDE, SIDE), mode="bicubic", align_corners=True).tanh()
    return images, torch.arange(size) % 10


def perturb(images: Tensor, labels: Tensor, *, backbone=None, head=None, seed: int = 5, **hyper):
    """The batch that AlignmentPerturbation makes of this one, after seeding torch."""
    backbone, head = backbone or make_backbone(), head or make_head()
    torch.manual_seed(seed)
    return AlignmentPerturbation(**hyper)(backbone, head, images, labels)


def record_parameters(monkeypatch) -> list[Tensor]:
    """Every warp's parameters (n, 4), read off its matrix."""
    recorded = []

    def warp(images, matrix, **settings):
        m = matrix.detach()
        scale, theta = m[:, 0, 0].hypot(m[:, 1, 0]), m[:, 1, 0].atan2(m[:, 0, 0])
        recorded.append(torch.stack([scale, theta, m[:, 0, 2], m[:, 1, 2]], 1))
        return aroface_warp(images, matrix, **settings)

    monkeypatch.setattr(aroface, "aroface_warp", warp)
    return recorded
