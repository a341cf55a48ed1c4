"""How far a number would move had other people been photographed: 95 % intervals, by identity, seeded.

The images of one person are not independent, so people are drawn with replacement, with everything that they
are in. Half the width of the percentile interval is what scripts print behind ±.

B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993. For pairs: R. Bolle et al., Error analysis of
pattern recognition systems: the subsets bootstrap, CVIU 2004.
"""

import numpy as np

from eval.metrics import check_rates

COVERAGE = (0.025, 0.975)
EXACT = 100_000  # negative pairs with the highest scores that are all kept
SAMPLED = 100_000  # about as many of the others


def half_width(replicates: np.ndarray) -> np.ndarray:
    """Half the distance of the 2.5 % and the 97.5 % quantile over the first axis; a NaN does not count."""
    low, high = np.nanquantile(replicates, COVERAGE, axis=0)
    return (high - low) / 2


def bootstrap_mean(values: np.ndarray, identity: np.ndarray, seed: int = 0, resamples: int = 1000) -> float:
    """Half width of the 95 % interval of the mean of `values`, over draws of identities.

    Args:
        values: `(N,)`, a number or a truth value a probe.
        identity: `(N,)`, whose it is.
    Raises:
        ValueError: shapes that do not fit, no value at all.
    """
    values, identity = np.asarray(values, dtype=np.float64), np.asarray(identity)
    if values.ndim != 1 or values.shape != identity.shape or not len(values):
        raise ValueError(
            f"values {values.shape} and identity {identity.shape} do not fit: expected (N,) twice"
        )
    _, index = np.unique(identity, return_inverse=True)
    count = np.bincount(index)
    total = np.bincount(index, weights=values)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    for r in range(resamples):
        drawn = random.integers(len(count), size=len(count))
        means[r] = total[drawn].sum() / count[drawn].sum()
    return float(half_width(means))


def bootstrap_means(rows: np.ndarray, identity: np.ndarray, seed: int = 0) -> np.ndarray:
    """`bootstrap_mean` of each row of `(R, N)`, all over the same draws: `(R,)`."""
    return np.array([bootstrap_mean(row, identity, seed) for row in rows])


def bootstrap_tar(
    scores: np.ndarray,
    same: np.ndarray,
    identity: np.ndarray,
    *,
    fars: np.ndarray,
    seed: int = 0,
    resamples: int = 1000,
) -> np.ndarray:
    """Half widths of the 95 % intervals of the true accept rate at false accept rates.

    In a draw where person a comes w_a times, a pair of one person weighs w_a and a pair of two w_a w_b; the
    threshold is found anew, where the weighted false accept rate is nearest to the wanted one.

    Of the pairs of different people the EXACT highest are kept, and of the others every s-th, which stands
    for s. That moves a false accept rate by half a percent of itself, far less than the draw of people does,
    and a thousand draws take seconds, however many pairs there are.

    Args:
        scores, same: `(P,)` each, as for `metrics.roc`.
        identity: `(P, 2)`, whose the two images (or templates) are.
        fars: `(F,)`, in [0, 1]: false accept rates, not thresholds.
    Returns:
        `(F,)`.
    Raises:
        ValueError: shapes that do not fit, one kind of pair only, a same-person pair of two identities, a
            rate outside [0, 1].
    """
    scores, same, identity = np.asarray(scores), np.asarray(same).astype(bool), np.asarray(identity)
    fars = check_rates(fars)
    _check_pairs(scores, same, identity)
    own, other, stands_for = _by_falling_score(scores, same)
    names, index = np.unique(identity[np.append(own, other)], return_inverse=True)
    own_person, (first, second) = index[: len(own), 0], index[len(own) :].T
    # How many same-person pairs score above the first negative that is rejected; all, where none is.
    own_above = np.searchsorted(-scores[own], np.append(-scores[other], np.inf))
    random = np.random.default_rng(seed)
    rates = np.full((resamples, len(fars)), np.nan)  # NaN stays where those drawn have no pairs of one kind
    for r in range(resamples):
        drawn = np.bincount(random.integers(len(names), size=len(names)), minlength=len(names)).astype(float)
        own_weight = np.append(0, drawn[own_person].cumsum())
        other_weight = np.append(0, (drawn[first] * drawn[second] * stands_for).cumsum())
        if own_weight[-1] == 0 or other_weight[-1] == 0:
            continue
        wanted = fars * other_weight[-1]
        upper = np.searchsorted(other_weight, wanted).clip(1)  # so many negatives, or one less, are accepted
        lower_is_nearer = wanted - other_weight[upper - 1] < other_weight[upper] - wanted
        # Pairs of people who were not drawn weigh nothing: of equal rates the one with the largest TAR.
        last = np.searchsorted(other_weight, other_weight[upper - lower_is_nearer], side="right") - 1
        rates[r] = own_weight[own_above[last]] / own_weight[-1]
    return half_width(rates)


def _check_pairs(scores: np.ndarray, same: np.ndarray, identity: np.ndarray) -> None:
    """Require what `bootstrap_tar` can weigh.

    Raises:
        ValueError: see there.
    """
    if scores.ndim != 1 or scores.shape != same.shape or identity.shape != (len(scores), 2):
        raise ValueError(
            f"scores {scores.shape}, same {same.shape} and identity {identity.shape} do not fit: "
            "expected (P,), (P,), (P, 2)"
        )
    if same.all() or not same.any():
        raise ValueError(f"all {len(same)} pairs are of one kind, expected both")
    if (mixed := same & (identity[:, 0] != identity[:, 1])).any():
        pair = int(mixed.argmax())
        raise ValueError(f"pair {pair} is of the same person, but of identities {identity[pair].tolist()}")


def _by_falling_score(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the same-person pairs; of the other pairs that are kept; how many pairs each of those is."""
    own = np.flatnonzero(same)
    own = own[np.argsort(-scores[own], kind="stable")]
    other = np.flatnonzero(~same)
    other = other[np.argsort(-scores[other], kind="stable")]
    step = max(1, (len(other) - EXACT) // SAMPLED)
    stands_for = np.append(np.ones(min(EXACT, len(other))), np.full(len(other[EXACT::step]), step))
    return own, np.append(other[:EXACT], other[EXACT::step]), stands_for
