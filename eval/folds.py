"""Counts and rates of the ten-fold protocol, every tie decided by a rule.

What is compared is an integer count, so that equal accuracies are really equal and "the first maximum" means
the same on every machine.
"""

import numpy as np


def fold_of_each(num_items: int, num_folds: int) -> np.ndarray:
    """The fold of each item: consecutive blocks, the first `num_items % num_folds` of them one item longer.

    Raises:
        ValueError: fewer than two folds, or fewer items than folds.
    """
    if not 2 <= num_folds <= num_items:
        raise ValueError(
            f"{num_items} items cannot be split into {num_folds} folds: it takes two folds or more, and as "
            "many items"
        )
    size, longer = divmod(num_items, num_folds)
    return np.repeat(np.arange(num_folds), [size + (fold < longer) for fold in range(num_folds)])


def mixed_order(same: np.ndarray) -> np.ndarray:
    """An order of the pairs `(P,)` in which both kinds are spread evenly, each in its own order.

    For lists of one kind each, as SurvFace's: consecutive folds of them would hold one kind only,
    and be judged by a threshold that was chosen on other proportions.
    """
    place = np.empty(len(same))
    for kind in (same, ~same):
        place[kind] = (np.arange(kind.sum()) + 0.5) / max(kind.sum(), 1)
    return np.argsort(place, kind="stable")


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
