"""The k-fold protocol on pairs: verification accuracy, ROC and VAL@FAR, as insightface computes them.

Score: squared distance of unit features. The folds are consecutive blocks of pairs; each is judged at the
threshold that was best on the others.

Ties: a pair is accepted where distance < threshold, strictly. Of equally good thresholds the smallest wins.
The threshold at FAR = 1e-3 is the smallest whose interpolated rate attains it (`folds.threshold_at_far`).

A list that is sorted by kind fills whole folds with one kind: see `VerificationResult.order_warning`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.folds import count_accepted, fold_of_each, ratio, threshold_at_far
from eval.metrics import check_unit
from eval.readers.bin_sets import load_bin

THRESHOLDS = np.arange(0, 4, 0.01)  # of the squared distance
FINE_THRESHOLDS = np.arange(0, 4, 0.001)  # for VAL@FAR
FAR_TARGET = 1e-3
FAR_SHOWN = 10 * FAR_TARGET  # a true accept rate at more says nothing of the one at FAR_TARGET


@dataclass(frozen=True)
class VerificationResult:
    """What one set says of one network."""

    accuracy: np.ndarray  # (folds,) share of right decisions
    tpr: np.ndarray  # (400,) true accept rate at THRESHOLDS, mean over the folds
    fpr: np.ndarray  # (400,) false accept rate
    threshold: np.ndarray  # (folds,) best threshold of the other folds, squared distance
    val: float  # true accept rate at the threshold where the other folds have FAR = 1e-3, mean over the folds
    far: float  # the false accept rate really met there
    right: np.ndarray  # (P,) bool: which pairs are decided rightly, each at the threshold of its fold
    same: np.ndarray  # (P,) bool: which pairs are of one person
    num_pairs: np.ndarray  # (folds, 2) pairs of different people, of one person
    xnorm: float | None = None  # mean length of the raw features, both views

    @property
    def mean(self) -> float:
        """Accuracy, mean over the folds."""
        return float(self.accuracy.mean())

    @property
    def std(self) -> float:
        """Standard deviation over the folds, of the population (divided by the number of folds)."""
        return float(self.accuracy.std())

    @property
    def cosine_threshold(self) -> np.ndarray:
        """`threshold` as a cosine: for unit vectors, squared distance = 2 - 2 cosine."""
        return 1 - self.threshold / 2

    @property
    def enough_pairs(self) -> bool:
        """Whether the pairs of different people, less those of any fold, can have the rate FAR_TARGET."""
        different = self.num_pairs[:, 0]
        return bool(FAR_TARGET * (different.sum() - different.max()) >= 1)

    @property
    def rate_in_words(self) -> str:
        """`val` at `far`; where that is far above FAR_TARGET, as of a collapsed network, no rate."""
        why = "" if self.enough_pairs else f" (too few pairs for {FAR_TARGET})"
        if self.far > FAR_SHOWN:
            return f"no TAR at FAR {FAR_TARGET}: the threshold for it lets in {self.far:.4f}{why}"
        return f"TAR {self.val:.4f} at FAR {self.far:.4f}{why}"

    @property
    def order_warning(self) -> str:
        """What is wrong with the order of the pairs, as a sentence; "" where each fold has both kinds."""
        one_kind = int((self.num_pairs == 0).any(axis=1).sum())
        if not one_kind:
            return ""
        return (
            f"{one_kind} of the {len(self.num_pairs)} folds hold one kind of pair only, so their threshold "
            "was chosen on another mix of pairs than they have, and the accuracy is wrong, mostly too low. "
            "The set needs its pairs interleaved, as tools/make_bin.py writes them."
        )


def folds_of_pairs(issame: np.ndarray, nrof_folds: int) -> np.ndarray:
    """The fold of each pair, `(P,)`.

    Raises:
        ValueError: fewer pairs than folds, or one kind of pair only.
    """
    if issame.all() or not issame.any():
        kind = "the same person" if issame.all() else "different people"
        raise ValueError(f"all {len(issame)} pairs are of {kind}, expected both kinds")
    return fold_of_each(len(issame), nrof_folds)


def load_set(path: str | Path, nrof_folds: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """`load_bin`, for a set that `evaluate` can score: another one is an error here, before a network runs.

    Raises:
        FileNotFoundError, ValueError: see `load_bin` and `folds_of_pairs`.
    """
    images, issame = load_bin(path)
    try:
        folds_of_pairs(issame, nrof_folds)
    except ValueError as fault:
        raise ValueError(f"{path}: {fault}") from None
    return images, issame


def squared_distances(embeddings: np.ndarray, issame: np.ndarray) -> np.ndarray:
    """Of the two rows of each pair, `(P,)` float64. Arguments and errors as `evaluate`."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    if embeddings.ndim != 2 or issame.ndim != 1 or len(embeddings) != 2 * len(issame):
        shapes = f"embeddings {embeddings.shape} and issame {issame.shape}"
        raise ValueError(f"{shapes} do not fit: expected (2P, D) and (P,)")
    check_unit(embeddings)
    return np.square(embeddings[0::2] - embeddings[1::2]).sum(axis=1)


def evaluate(embeddings: np.ndarray, issame: np.ndarray, nrof_folds: int = 10) -> VerificationResult:
    """k-fold verification accuracy, ROC and VAL@FAR=1e-3.

    Args:
        embeddings: `(2P, D)`, unit rows (or zero); rows 2i and 2i+1 form pair i.
        issame: `(P,)`, true where both are the same person.
        nrof_folds: consecutive blocks of pairs, as scikit-learn's KFold makes them.
    Raises:
        ValueError: shapes that do not fit, rows not of unit length, one kind of pair only, too few pairs.
    """
    issame = np.asarray(issame).astype(bool)
    distance = squared_distances(embeddings, issame)  # (P,)
    fold = folds_of_pairs(issame, nrof_folds)  # (P,)
    group = 2 * fold + issame  # (P,) fold by fold: different pairs, same pairs

    def accepted_at(thresholds: np.ndarray) -> np.ndarray:
        """Counts `(folds, 2, T)`; [:, 0] are false accepts, [:, 1] true accepts."""
        return count_accepted(distance, group, 2 * nrof_folds, thresholds).reshape(nrof_folds, 2, -1)

    def other_folds(counts: np.ndarray) -> np.ndarray:
        return counts.sum(axis=0) - counts

    num_pairs = np.bincount(group, minlength=2 * nrof_folds).reshape(nrof_folds, 2)
    accepted = accepted_at(THRESHOLDS)
    rates = ratio(accepted, num_pairs[:, :, None], if_empty=0).mean(axis=0)  # (2, 400)
    gain = accepted[:, 1] - accepted[:, 0]  # (folds, 400) right decisions, less the number of different pairs
    best = other_folds(gain).argmax(axis=1)  # (folds,) the first maximum
    correct = gain[np.arange(nrof_folds), best] + num_pairs[:, 0]

    false_accepts = accepted_at(FINE_THRESHOLDS)[:, 0]  # (folds, 4000)
    far = ratio(other_folds(false_accepts), other_folds(num_pairs)[:, :1], if_empty=0)  # (folds, 4000)
    strict = np.array([threshold_at_far(row, FINE_THRESHOLDS, FAR_TARGET) for row in far])
    accepted = np.bincount(group[distance < strict[fold]], minlength=2 * nrof_folds).reshape(nrof_folds, 2)
    # A fold that has no pairs of one kind says nothing about their rate.
    far, val = np.nanmean(ratio(accepted, num_pairs, if_empty=np.nan), axis=0)

    return VerificationResult(
        accuracy=correct / num_pairs.sum(axis=1),
        tpr=rates[1],
        fpr=rates[0],
        threshold=THRESHOLDS[best],
        right=(distance < THRESHOLDS[best][fold]) == issame,
        same=issame,
        val=float(val),
        far=float(far),
        num_pairs=num_pairs,
    )
