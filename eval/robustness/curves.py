"""Accuracy and feature norms of faces that are perturbed more and more: the numbers behind the curves.

Whether the norm knows quality is asked in ranks, by Spearman's correlation: norms of two networks have no
common scale, and amounts of two perturbations no common unit. Ranks see any difference, however small; so
norms are first rounded, to what is well above the noise of float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from eval.bootstrap import bootstrap_mean, half_width
from eval.kfold import evaluate
from eval.metrics import normalise, tar_at_far

FAR = 0.1
FOLDS = 10
RESOLUTION = 1e-4  # of norms, as a share of the median


class Correlation(NamedTuple):
    """Spearman's, of norm and quality."""

    rho: float
    half_width: float  # of the 95 % interval over draws of pairs

    @property
    def is_negative(self) -> bool:
        """Not by chance: the whole interval is below 0."""
        return self.rho + self.half_width < 0

    @property
    def numbers(self) -> dict:
        """What results.json keeps."""
        return {"norm_quality_correlation": self.rho, "norm_quality_interval": self.half_width}


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
    correlation: Correlation  # within an image
    order_warning: str = ""  # what is wrong with the order of the pairs, see `kfold.VerificationResult`

    @property
    def standard_error(self) -> np.ndarray:
        """`(A,)` of the accuracy, from its spread over the folds: `std` is divided by FOLDS."""
        return self.std / (FOLDS - 1) ** 0.5

    @property
    def numbers(self) -> dict:
        """What results.json keeps."""
        return {
            "amounts": self.amounts,
            "accuracy": self.accuracy,
            "std": self.std,
            "standard_error": self.standard_error,
            "accuracy_at_clean_threshold": self.fixed_accuracy,
            "tar_at_far": self.tar,
            "median_norm": np.median(self.norms, axis=1),
            **self.correlation.numbers,
        }


Curves = Mapping[str, Mapping[str, Mapping[str, Curve]]]  # model -> set -> perturbation


def order_warnings(curves: Curves) -> list[str]:
    """A paragraph for each set whose folds hold one kind of pair."""
    sets = next(iter(curves.values()))  # the pairs are the same for every model and perturbation
    told = {name: next(iter(kinds.values())).order_warning for name, kinds in sets.items()}
    return [f"Warning: {name}: {warning}" for name, warning in told.items() if warning]


def robustness_curve(
    amounts: Sequence[float],
    views: Sequence,
    issame: np.ndarray,
    perturbed: slice = slice(None),
    seed: int = 0,
) -> Curve:
    """Score the features of faces that are perturbed more and more.

    Args:
        amounts: A, the clean one first.
        views: for each amount the raw features of images and mirror images, `(2, 2P, D)`; images 2i and
            2i + 1 form pair i.
        issame: `(P,)`.
        perturbed: which of the 2P images are; the norms of the others say nothing about quality.
        seed: of the draws of pairs.
    """
    units = [normalise(plain.astype(np.float64) + flip) for plain, flip in views]
    results = [evaluate(unit, issame, FOLDS) for unit in units]
    distances = [np.square(unit[0::2] - unit[1::2]).sum(axis=1) for unit in units]  # (P,) each
    threshold = results[0].threshold.mean()
    norms = np.array([np.linalg.norm(pair, axis=2).mean(axis=0) for pair in views])  # (A, 2P)
    pair = np.arange(2 * len(issame)) // 2  # (2P,)
    return Curve(
        amounts=tuple(amounts),
        accuracy=np.array([result.mean for result in results]),
        std=np.array([result.std for result in results]),
        fixed_accuracy=np.array([np.mean((distance < threshold) == issame) for distance in distances]),
        tar=np.array([tar_at_far(-distance, issame, FAR).tar[0] for distance in distances]),
        norms=norms[:, perturbed],
        clean_norms=norms[0],
        correlation=correlation_within(norms[:, perturbed], pair[perturbed], seed),
        order_warning=results[0].order_warning,
    )


def correlation_within(norms: np.ndarray, pair: np.ndarray, seed: int = 0) -> Correlation:
    """Spearman's correlation of norm and quality for each image, mean over the images.

    Args:
        norms: `(A, N)`, in falling quality of the same N images.
        pair: `(N,)`, the pair of each: pairs are drawn for the interval, with all their images.
    """
    each = spearman(rounded(norms), np.arange(len(norms), 0, -1))  # (N,)
    return Correlation(float(each.mean()), bootstrap_mean(each, pair, seed))


def correlation_between(norms: Sequence[np.ndarray], seed: int = 0, resamples: int = 1000) -> Correlation:
    """Spearman's correlation of norm and quality over the images of several sets, best first.

    Args:
        norms: `(2P,)` of each set; 2i and 2i + 1 are a pair. Pairs are drawn within each set.
    """
    sizes = [len(own) for own in norms]
    quality = np.repeat(-np.arange(len(norms)), sizes)
    steps = rounded(np.concatenate(norms))
    places = np.split(np.arange(len(steps)).reshape(-1, 2), np.cumsum(sizes)[:-1] // 2)  # (P, 2) each
    random = np.random.default_rng(seed)
    replicates = np.empty(resamples)
    for r in range(resamples):
        drawn = [pairs[random.integers(len(pairs), size=len(pairs))].ravel() for pairs in places]
        replicates[r] = spearman(steps[np.concatenate(drawn)], quality)
    return Correlation(float(spearman(steps, quality)), float(half_width(replicates)))


def rounded(norms: np.ndarray) -> np.ndarray:
    """In steps of RESOLUTION, counted so that the median over the first axis is in the middle of one."""
    median = np.median(norms, axis=0)
    return np.rint(norms / (RESOLUTION * np.where(median == 0, 1, median)))


def spearman(values: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Rank correlation along the first axis, equal values at their mean rank; 0 where nothing changes.

    Args:
        values: `(A,)` or `(A, N)`.
        quality: `(A,)`.
    Returns:
        `()` or `(N,)`.
    """
    ranks, place = (rankdata(each, axis=0) - (len(quality) + 1) / 2 for each in (values, quality))
    scale = np.sqrt(np.square(ranks).sum(axis=0) * np.square(place).sum())
    return place @ ranks / np.where(scale == 0, 1, scale)
