"""Small networks of every family, and inputs for them."""

import numpy as np
import pytest
import torch
from torch import nn

from backbones import get_model

# One of each family, with a few blocks: a forward and backward pass takes a fraction of a second.
SMALL = {
    "r18": {"blocks": (1, 1, 2, 1)},
    "mbf": {"blocks": (1, 1, 2, 1), "scale": 1},
    "vit_t": {"width": 64, "depth": 3},
    "ir_se_50": {"blocks": (1, 1, 2, 1)},
}
small_networks = pytest.mark.parametrize("name", SMALL)


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
