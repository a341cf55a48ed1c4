"""What `stream` does with each sample's own class: its cosine, its centre, and the gradient of both.

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
        directions: `(k, D)`, of the own classes that this rank holds.
        cos: `(B,)`, the cosine of each sample with its own class, equal on every rank.
        centres: `(B, D)`, the raw centre of each sample's class, equal on every rank; None where nobody asks.
    """

    directions: Tensor
    cos: Tensor
    centres: Tensor | None


def compare_own(embeddings: Tensor, weight: Tensor, step: Step) -> OwnClasses:
    """Compare each sample with its own class, whichever rank holds it."""
    shard = step.shard
    directions = step.loss.directions(weight[shard.columns])  # (k, D)
    cos = all_reduce(shard.to_batch((embeddings[shard.rows] * directions).sum(1)))
    centres = all_reduce(shard.to_batch(weight[shard.columns])) if step.needs_own_centres else None
    return OwnClasses(directions, cos, centres)


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


def own_centre_gradients(
    embeddings: Tensor,
    weight: Tensor,
    step: Step,
    directions: Tensor,
    grad_own: Tensor,
    grad_own_centres: Tensor | None,
) -> Tensor:
    """`(k, D)`: what the raw centres of the own classes on this rank get through them.

    Args:
        directions: `(k, D)`, of `OwnClasses`.
        grad_own: `(k, 1)`, the whole gradient of the own cosines.
        grad_own_centres: `(B, D)`, the gradient of `OwnClasses.centres`.
    """
    shard = step.shard
    inverse_own = inverse_norm(weight[shard.columns]) if step.loss.normalizes else None
    gradient = through_directions(grad_own * embeddings[shard.rows], directions, inverse_own)
    return gradient + grad_own_centres[shard.rows] if step.needs_own_centres else gradient


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
