"""Vectors of unit length, and the gradient through normalising them."""

import math

import torch
from torch import Tensor

# A vector that is shorter than this, or whose squares overflow, has no direction: its cosines are 0 and it
# gets no gradient.
MIN_NORM = 1e-6


def normalise(vectors: Tensor) -> Tensor:
    """Rows divided by their length; rows that have no direction become 0."""
    return vectors * inverse_norm(vectors)


def inverse_norm(vectors: Tensor) -> Tensor:
    """`(n, D)` -> `(n, 1)`: 1 / length, 0 where there is none."""
    length = vectors.norm(dim=1, keepdim=True)
    has_direction = (length > MIN_NORM) & (length < math.inf)
    return torch.where(has_direction, 1 / length.clamp_min(MIN_NORM), 0)


def normalise_backward(
    gradient: Tensor, directions: Tensor, inverse: Tensor, out: Tensor | None = None
) -> Tensor:
    """Gradient of `normalise`: the part across each direction, divided by the length; into `out` if given.

    `out` takes intermediate values too, so it may not share memory with the other arguments.
    """
    along = torch.mul(gradient, directions, out=out).sum(1, keepdim=True).neg_()
    return torch.addcmul(gradient, directions, along, out=out).mul_(inverse)
