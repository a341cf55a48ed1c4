"""A small network of every family, and inputs for it. A family that joins the registry joins the tests."""

import numpy as np
import pytest
import torch
from torch import nn

from backbones import get_model
from backbones.registry import MODELS


def small_settings() -> dict[str, dict]:
    """The first name of each family, with the settings of its tiny network."""
    first = {}
    for name, (family, _) in MODELS.items():
        first.setdefault(family, name)
    return {name: family.small for family, name in first.items()}


def case(name: str, *values):
    """A case of a parametrised test, which is skipped where the network needs a package that is missing."""
    family = MODELS[name][0]
    missing = pytest.mark.skipif(not family.is_available(), reason=f"{family.package} is not installed")
    return pytest.param(name, *values, marks=missing)


SMALL = small_settings()  # a forward and backward pass of each takes a fraction of a second
small_networks = pytest.mark.parametrize("name", [case(name) for name in SMALL])


def small(name: str, **options):
    torch.manual_seed(1)
    return get_model(name, **{"num_features": 32, **SMALL[name], **options})


def images(count: int = 2) -> torch.Tensor:
    pixels = np.random.RandomState(1).uniform(-1, 1, (count, 3, 112, 112))
    return torch.from_numpy(pixels.astype(np.float32))


def weighted(embeddings: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient the last BatchNorm does not cancel."""
    return (embeddings * torch.arange(embeddings.numel()).view_as(embeddings).sin()).sum()


def on_meta(name: str, **settings) -> nn.Module:
    with torch.device("meta"):
        return get_model(name, **settings)


def shapes(name: str, **settings) -> dict[str, list[int]]:
    return {key: list(tensor.shape) for key, tensor in on_meta(name, **settings).state_dict().items()}
