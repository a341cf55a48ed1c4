"""Vectors of unit length, and the gradient through normalising them."""

import torch
from torch import Tensor

SHORTEST = 1e-6  # a vector shorter than this has no direction: its cosines are 0 and it gets no gradient


def unit(vectors: Tensor) -> Tensor:
    """Rows divided by their length; rows shorter than SHORTEST become 0."""
    return vectors * inverse_length(vectors)


def inverse_length(vectors: Tensor) -> Tensor:
    """`(n, D)` -> `(n, 1)`: 1 / length, 0 where there is none."""
    length = vectors.norm(dim=1, keepdim=True)
    return torch.where(length > SHORTEST, 1 / length.clamp_min(SHORTEST), 0)


def through_unit(gradient: Tensor, directions: Tensor, inverse: Tensor, out: Tensor | None = None) -> Tensor:
    """Gradient of `unit`: the part across each direction, divided by the length; into `out` if given."""
    along = -(gradient * directions).sum(1, keepdim=True)
    return torch.addcmul(gradient, directions, along, out=out).mul_(inverse)
