"""Accuracy and feature norms of faces that are perturbed more and more: the numbers behind the curves.

Whether the norm knows quality is asked in ranks, by Spearman's correlation: norms of two networks have no
common scale, and amounts of two perturbations no common unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from eval.metrics import normalise, tar_at_far
from eval.verification import evaluate

FAR = 0.1


@dataclass(frozen=True)
class Curve:
    """One model on P pairs of one set, under one perturbation in A amounts, the clean one first."""

    amounts: tuple[float, ...]
    accuracy: np.ndarray  # (A,) mean over the folds
    std: np.ndarray  # (A,) over the folds
    fixed_accuracy: np.ndarray  # (A,) at the mean of the thresholds of the clean set's folds
    tar: np.ndarray  # (A,) at FAR
    norms: np.ndarray  # (A, 2P) of the perturbed images; (A, P) where only the second of each pair is
    clean_norms: np.ndarray  # (2P,) of all images, before anything is done to them

    @property
    def correlation(self) -> float:
        """Of norm and quality, within an image."""
        return correlation_within(self.norms)


Curves = Mapping[str, Mapping[str, Mapping[str, Curve]]]  # model -> set -> perturbation


def robustness_curve(
    amounts: Sequence[float], views: Sequence, issame: np.ndarray, perturbed: slice = slice(None)
) -> Curve:
    """Score the features of faces that are perturbed more and more.

    Args:
        amounts: A, the clean one first.
        views: for each amount the raw features of images and mirror images, `(2, 2P, D)`; images 2i and
            2i + 1 form pair i.
        issame: `(P,)`.
        perturbed: which of the 2P images are; the norms of the others say nothing about quality.
    """
    units = [normalise(plain.astype(np.float64) + flip) for plain, flip in views]
    results = [evaluate(unit, issame) for unit in units]
    distances = [np.square(unit[0::2] - unit[1::2]).sum(axis=1) for unit in units]  # (P,) each
    threshold = results[0].threshold.mean()
    norms = np.array([np.linalg.norm(pair, axis=2).mean(axis=0) for pair in views])  # (A, 2P)
    return Curve(
        amounts=tuple(amounts),
        accuracy=np.array([result.mean for result in results]),
        std=np.array([result.std for result in results]),
        fixed_accuracy=np.array([np.mean((distance < threshold) == issame) for distance in distances]),
        tar=np.array([tar_at_far(-distance, issame, FAR).tar[0] for distance in distances]),
        norms=norms[:, perturbed],
        clean_norms=norms[0],
    )


def correlation_within(norms: np.ndarray) -> float:
    """Spearman's correlation of norm and quality for each image, mean over the images.

    Args:
        norms: `(A, N)`, in falling quality of the same N images.
    """
    quality = np.arange(len(norms), 0, -1)
    return float(np.mean([spearman(own, quality) for own in norms.T]))


def correlation_between(norms: Sequence[np.ndarray]) -> float:
    """Spearman's correlation of norm and quality over the images of several sets, `(N,)` each, best first."""
    quality = np.repeat(-np.arange(len(norms)), [len(own) for own in norms])
    return spearman(np.concatenate(norms), quality)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation, equal values at their mean rank; 0 where one of them never changes."""
    ranks = rankdata([first, second], axis=1)
    return float(np.corrcoef(ranks)[0, 1]) if np.ptp(ranks, axis=1).all() else 0.0
