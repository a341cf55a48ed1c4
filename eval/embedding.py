"""Aligned faces to embeddings, in three lines:

    from eval.embedding import embed, load_model
    model = load_model("work_dirs/demo/model.pt")
    first, second = embed(model, ["a.jpg", "b.jpg"]).unit

An embedding is that of the protocols: the sum of the features of an image and of its mirror image, brought to
length 1. Two are compared by their inner product, the cosine.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from eval.features import extract
from eval.metrics import normalise
from eval.models import load_model
from eval.readers.faces import AlignedFaces

__all__ = ["Embeddings", "embed", "load_model"]


class Embeddings(NamedTuple):
    """Of N images."""

    unit: np.ndarray  # (N, D) float32, rows of length 1 (of a dead network 0)
    norm: np.ndarray  # (N,) length of the raw features, mean over both views: short for bad images


def embed(
    model: nn.Module,
    images: Sequence,
    *,
    mirror: bool = True,
    batch_size: int = 64,
    precision: str = "fp32",
    progress: str | None = None,
) -> Embeddings:
    """The embeddings of aligned faces.

    Args:
        model: of `load_model`.
        images: paths of 112x112 images; or `(N, 112, 112, 3)` uint8, RGB; or a sequence of
            `eval.readers.faces`.
        mirror: add the mirror image's feature, at twice the cost. A threshold holds for one of the two ways.
        batch_size, precision, progress: see `eval.features.extract`.
    Raises:
        FileNotFoundError: files that are not there.
        ValueError: images that are not aligned, damaged, or no bytes; an empty sequence; features that are
            not finite.
    """
    if len(images) == 0:
        raise ValueError("there are no images to embed")
    if isinstance(images[0:1], list | tuple) and isinstance(images[0], str | os.PathLike):
        images = AlignedFaces(images)
    options = {"batch_size": batch_size, "precision": precision, "progress": progress}
    plain, flip = extract(model, images, mirror=mirror, **options)
    views = [plain] if flip is None else [plain, flip]
    norm = np.mean([np.linalg.norm(view, axis=1) for view in views], axis=0)
    if not np.isfinite(norm).all():
        first = int(np.flatnonzero(~np.isfinite(norm))[0])
        named = images[first] if isinstance(images, list | tuple) else f"number {first}"
        raise ValueError(
            f"the features of image {named} are not finite with precision {precision}: take fp32 or bf16, or "
            "the network is damaged"
        )
    return Embeddings(normalise(np.sum(views, axis=0, dtype=np.float64)).astype(np.float32), norm)
