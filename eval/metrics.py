"""Counts and rates that the protocols share: NumPy on features and scores, every tie decided by a rule.

What is compared is an integer count, so that equal accuracies are really equal and "the first maximum" means
the same on every machine.
"""

from typing import NamedTuple

import numpy as np


def normalise(features: np.ndarray) -> np.ndarray:
    """Divide each row by its length, in float64; a row of zeros stays zero.

    Args:
        features: `(N, D)`.
    """
    features = np.asarray(features, dtype=np.float64)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length == 0, 1, length)


def check_unit(embeddings: np.ndarray) -> None:
    """Require `(N, D)` finite rows of length 1; a row of zeros passes (a dead network is scored, as chance).

    Raises:
        ValueError: naming the first row that is wrong.
    """
    length = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))  # NaN or inf where any entry is
    if (wrong := ~((np.abs(length - 1) < 1e-3) | (length == 0))).any():
        raise ValueError(
            f"{wrong.sum()} of {len(length)} embeddings are not of unit length: the first, of image "
            f"{np.argmax(wrong)}, has length {length[wrong][0]:.4g}"
        )


def fold_of_each(num_items: int, num_folds: int) -> np.ndarray:
    """The fold of each item: consecutive blocks, the first `num_items % num_folds` of them one item longer.

    Raises:
        ValueError: fewer than two folds, or fewer items than folds.
    """
    if not 2 <= num_folds <= num_items:
        raise ValueError(
            f"{num_items} items cannot be split into {num_folds} folds: allowed are 2 to {num_items} folds"
        )
    size, longer = divmod(num_items, num_folds)
    return np.repeat(np.arange(num_folds), [size + (fold < longer) for fold in range(num_folds)])


def count_accepted(
    distance: np.ndarray, group: np.ndarray, num_groups: int, thresholds: np.ndarray
) -> np.ndarray:
    """How many items of each group are accepted at each threshold: strictly, distance < threshold.

    One sorted search per item and a histogram, whatever the number of thresholds and groups.

    Args:
        distance: `(P,)`; a NaN is never accepted.
        group: `(P,)` integers in [0, num_groups).
        thresholds: `(T,)`, ascending.
    Returns:
        `(num_groups, T)` integers.
    """
    num_bins = len(thresholds) + 1
    first = np.searchsorted(
        thresholds, distance, side="right"
    )  # (P,) the first threshold that lies above; T: none does
    histogram = np.bincount(group * num_bins + first, minlength=num_groups * num_bins)
    return histogram.reshape(num_groups, num_bins)[:, :-1].cumsum(axis=1)


def ratio(part: np.ndarray, whole: np.ndarray, if_empty: float) -> np.ndarray:
    """part / whole as float64, and `if_empty` where the whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, if_empty, dtype=np.float64), where=whole != 0)


def threshold_at_far(far: np.ndarray, thresholds: np.ndarray, target: float) -> float:
    """The threshold at which a false accept rate, interpolated linearly, first reaches `target`.

    A measured rate is a staircase, flat between two scores, so at the height of a step its inverse has many
    values. The rule is "the first": the strictest threshold that attains the target.

    Args:
        far: `(T,)`, not decreasing, starts at 0.
        thresholds: `(T,)`, ascending.
        target: above 0.
    Returns:
        The threshold, or 0 (accepts nothing) where the rate never reaches the target.
    """
    if far[-1] < target:
        return 0.0
    upper = int(np.argmax(far >= target))
    lower = upper - 1  # exists, and has a smaller rate: the curve starts at 0 < target
    share = (target - far[lower]) / (far[upper] - far[lower])
    return float(thresholds[lower] + share * (thresholds[upper] - thresholds[lower]))


class TarAtFar(NamedTuple):
    """True accept rates at wanted false accept rates, `(F,)` each."""

    tar: np.ndarray  # share of the same-person pairs that are accepted
    far: np.ndarray  # share of the other pairs that really are
    threshold: np.ndarray  # a pair is accepted where score >= threshold


def split_scores(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores of different people and of the same person, float64, each ascending.

    Raises:
        ValueError: shapes that differ, a score that is not finite, one kind of pair only.
    """
    scores, same = np.asarray(scores, dtype=np.float64), np.asarray(same).astype(bool)
    if scores.ndim != 1 or scores.shape != same.shape:
        raise ValueError(f"scores {scores.shape} and same {same.shape} do not fit: expected (P,) and (P,)")
    if not (finite := np.isfinite(scores)).all():
        raise ValueError(
            f"{(~finite).sum()} of {len(scores)} scores are not finite: pair {finite.argmin()} is the first"
        )
    if same.all() or not same.any():
        kind = "the same person" if same.all() else "different people"
        raise ValueError(f"all {len(same)} pairs are of {kind}, expected both kinds")
    return np.sort(scores[~same]), np.sort(scores[same])


def roc(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False and true accept rate wherever the curve bends: scikit-learn's `roc_curve`, faster.

    The first point accepts nothing (threshold inf); then a point a distinct score, descending, without those
    where both counts go on as before (`drop_intermediate`, its default): of millions of pairs, thousands.

    Args:
        scores: `(P,)`, higher is more alike.
        same: `(P,)`, true where both are the same person.
    Returns:
        far, tar, thresholds: `(K,)` each; a pair is accepted where score >= threshold.
    Raises:
        ValueError: see `split_scores`.
    """
    other, own = split_scores(scores, same)
    every = np.sort(np.concatenate([other, own]))[::-1]
    last = np.flatnonzero(np.append(every[1:] != every[:-1], True))  # (U,) of each run of equal scores
    thresholds = every[last]
    accepted_own = len(own) - np.searchsorted(own, thresholds)  # (U,)
    accepted_other = last + 1 - accepted_own
    kept = np.ones(len(last), dtype=bool)  # both ends always
    kept[1:-1] = (np.diff(accepted_own, 2) != 0) | (np.diff(accepted_other, 2) != 0)
    far = np.append(0, accepted_other[kept]) / len(other)
    tar = np.append(0, accepted_own[kept]) / len(own)
    return far, tar, np.append(np.inf, thresholds[kept])


def auc(scores: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC curve: how often a same-person pair beats another; a tie is half a win.

    Counted in integers (Mann-Whitney), so that it is exact. Arguments and errors as `roc`.
    """
    other, own = split_scores(scores, same)
    wins = np.searchsorted(other, own, side="left").sum() + np.searchsorted(other, own, side="right").sum()
    return float(wins / (2 * len(own) * len(other)))


def tar_at_far(scores: np.ndarray, same: np.ndarray, fars: np.ndarray, rule: str = "nearest") -> TarAtFar:
    """True accept rates at false accept rates, as published.

    "nearest" (IJB: insightface, AdaFace, CVLface): of the points of `roc` the one whose false accept rate is
    nearest to the wanted one, and may lie above it; of equally near ones the one with the largest tar.
    "rounded" (SurvFace: NDR): the threshold is the k-th largest score of the N different-people pairs,
    k = round(FAR N), half to even; the largest of them + 1e-8 where k is 0.

    Args:
        scores, same: as for `roc`.
        fars: `(F,)`, in [0, 1].
        rule: "nearest" or "rounded".
    Raises:
        ValueError: see `split_scores`; a rate outside [0, 1]; an unknown rule.
    """
    fars = check_rates(fars)
    if rule == "nearest":
        far, tar, thresholds = roc(scores, same)
        chosen = np.array([len(far) - 1 - np.abs(far[::-1] - wanted).argmin() for wanted in fars])
        return TarAtFar(tar[chosen], far[chosen], thresholds[chosen])
    if rule != "rounded":
        raise ValueError(f"rule {rule!r}: allowed are 'nearest' and 'rounded'")
    other, own = split_scores(scores, same)
    count = np.round(fars * len(other)).astype(int)  # (F,)
    threshold = np.append(other, other[-1] + 1e-8)[len(other) - count]
    return TarAtFar(share_accepted(own, threshold), share_accepted(other, threshold), threshold)


def share_accepted(ascending: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """`(F,)`: the share of the scores that are >= each threshold."""
    return (len(ascending) - np.searchsorted(ascending, thresholds)) / len(ascending)


def check_rates(rates: np.ndarray) -> np.ndarray:
    """Rates as float64 `(F,)`.

    Raises:
        ValueError: one is outside [0, 1].
    """
    rates = np.atleast_1d(np.asarray(rates, dtype=np.float64))
    if not (allowed := (rates >= 0) & (rates <= 1)).all():
        raise ValueError(f"rate {rates[~allowed][0]:g}: allowed are 0 to 1")
    return rates
