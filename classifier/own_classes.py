"""What the engines do with each sample's own class: its cosine, its centre, and the gradient of both.

Shapes: B samples of the global batch, n classes of this rank that take part, D the embedding size, k samples
whose own class is one of this rank's.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from classifier.step import Step
from utils.distributed import all_reduce
from utils.unit_vectors import inverse_norm, normalise_backward


class OwnClasses(NamedTuple):
    """The own classes of a batch.

    Attributes:
        cos: `(B,)`, the cosine of each sample with its own class.
        centres: `(B, D)`, the raw centre of each sample's class; None where nobody asks.
    """

    cos: Tensor
    centres: Tensor | None = None


def compare_own(embeddings: Tensor, weight: Tensor, step: Step) -> OwnClasses:
    """Compare each sample with its own class if this rank holds it; for the others all is 0."""
    shard = step.shard
    centres = weight[shard.columns]  # (k, D)
    cos = (embeddings[shard.rows] * step.loss.directions(centres)).sum(1)
    return OwnClasses(shard.to_batch(cos), shard.to_batch(centres) if step.needs_own_centres else None)


def own_cosines(own_cos: Tensor, norms: Tensor, weight: Tensor, step: Step) -> Tensor:
    """`OwnClasses.cos` as cosines `(B,)`, also where the loss compares by inner products.

    Args:
        norms: `(B,)`, of the embeddings.
        weight: all centres of this rank, whether they take part or not.
    """
    if step.loss.normalizes:
        return own_cos
    lengths = all_reduce(step.shard.to_batch(weight[step.shard.classes].norm(dim=1)))
    return own_cos / (norms * lengths).clamp_min(torch.finfo(own_cos.dtype).tiny)


def add_own_gradients(
    grad_embeddings: Tensor,
    embeddings: Tensor,
    weight: Tensor,
    step: Step,
    grad_own_cos: Tensor,
    grad_own_centres: Tensor | None,
) -> Tensor:
    """Add what the embeddings get through the own classes on this rank; returns what their centres get.

    Args:
        grad_embeddings: `(B, D)`, added to in place.
        grad_own_cos: `(B,)`, the whole gradient of the own cosines.
        grad_own_centres: `(B, D)`, the gradient of `OwnClasses.centres`.
    Returns:
        `(k, D)`, for the raw centres of the own classes.
    """
    shard = step.shard
    centres, gradient = weight[shard.columns], grad_own_cos[shard.rows, None]
    inverse = inverse_norm(centres) if step.loss.normalizes else None
    directions = centres if inverse is None else centres * inverse
    grad_embeddings.index_add_(0, shard.rows, gradient * directions)  # a sample has one own class
    of_centres = through_directions(gradient * embeddings[shard.rows], directions, inverse)
    return of_centres + grad_own_centres[shard.rows] if step.needs_own_centres else of_centres


def through_directions(
    gradient: Tensor,
    directions: Tensor,
    inverse: Tensor | None,
    scale: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:
    """Turn the gradient of directions · scale into that of the centres; inverse: None if not normalised."""
    if inverse is None:
        return torch.mul(gradient, scale, out=out)
    return normalise_backward(gradient, directions, inverse * scale, out=out)
