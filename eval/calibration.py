"""Which cosine to ask for, so that only so many pairs of different people are accepted.

The threshold at a false accept rate is the smallest score t for which at most that share of the pairs of
different people scores t or more; a pair is accepted where cosine >= t. Where fewer than 1 / FAR pairs of
different people are known, no threshold has that rate, and there is none.

±: half the 95 % interval over 1,000 draws of people with replacement, in which a pair of two people weighs as
often as both were drawn, and the threshold is found anew. Images of one person, and pairs that share one, are
not independent: a set of few people has wide intervals, however many pairs it makes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eval.bootstrap import EXACT, SAMPLED, half_width

FARS = np.array([1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
ALL_KEPT = 1 << 22  # of so many pairs all are kept; of more the highest, and a sample of the others
HIGHEST = 1 << 20
BLOCK_BYTES = 1 << 25  # of the scores of one block


@dataclass(frozen=True)
class Calibration:
    """Thresholds from the scores of pairs of different people."""

    fars: np.ndarray  # (F,) wanted false accept rates
    cosine: np.ndarray  # (F,) the thresholds; NaN: too few pairs
    interval: np.ndarray  # (F,) half width of the 95 % interval
    pairs: int  # of different people
    people: int  # of whom those pairs are; pairs, where nobody knows


@dataclass(frozen=True)
class Scores:
    """Pairs of different people by falling score, `(S,)` each; not every pair, if there are very many."""

    score: np.ndarray
    first: np.ndarray  # person, in [0, people)
    second: np.ndarray | None  # None: each pair is drawn for itself
    stands_for: np.ndarray  # how many pairs each of them is
    pairs: int
    people: int


def _require_finite(numbers: np.ndarray) -> None:
    if not np.isfinite(numbers).all():
        raise ValueError("scores that are not finite give no threshold: extract the features in fp32")


def calibrate_pairs(
    scores: np.ndarray, people: np.ndarray | None = None, *, fars: np.ndarray = FARS, seed: int = 0
) -> Calibration:
    """Thresholds from pairs that are given.

    Args:
        scores: `(P,)` cosines of pairs of different people.
        people: `(P, 2)`, who they are; None: unknown, and pairs are drawn in their place.
        fars: `(F,)` false accept rates.
        seed: of the draws.
    Raises:
        ValueError: a score is not finite.
    """
    _require_finite(scores)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    if people is None:
        first, second, count = order, None, len(order)
    else:
        names, index = np.unique(np.asarray(people)[order], return_inverse=True)
        first, second, count = *index.reshape(-1, 2).T, len(names)
    sorted_scores = np.asarray(scores, dtype=np.float64)[order]
    return _thresholds(
        Scores(sorted_scores, first, second, np.ones(len(order)), len(order), count), fars, seed
    )


def calibrate_search(
    probes: np.ndarray,
    gallery: np.ndarray,
    probe_ids: np.ndarray,
    gallery_ids: np.ndarray,
    *,
    fars: np.ndarray = FARS,
    seed: int = 0,
) -> Calibration:
    """Thresholds from each probe with each entry of the gallery of another identity.

    Args:
        probes, gallery: `(P, D)` and `(G, D)`, unit rows (or zero).
        probe_ids, gallery_ids: `(P,)` and `(G,)`; each negative one is somebody else, and nobody's mate.
    """
    ids = np.concatenate([probe_ids, gallery_ids])
    nobody = np.flatnonzero(ids < 0)
    ids[nobody] = ids.max() + 1 + np.arange(len(nobody))
    names, person = np.unique(ids, return_inverse=True)
    first, second = person[: len(probes)], person[len(probes) :]
    scores = _kept(_search_blocks(probes, gallery, first, second), len(probes) * len(gallery), seed)
    return _thresholds(scores, fars, seed, len(names))


def calibrate_set(
    unit: np.ndarray, ids: np.ndarray | None = None, *, fars: np.ndarray = FARS, seed: int = 0
) -> Calibration:
    """Thresholds from all pairs of images of different people in one set.

    Args:
        unit: `(N, D)`, unit rows (or zero).
        ids: `(N,)`, whose each image is; None: of N different people.
    """
    _require_finite(unit)
    ids = np.arange(len(unit)) if ids is None else np.asarray(ids)
    names, person = np.unique(ids, return_inverse=True)
    scores = _kept(_set_blocks(unit, person), len(unit) * (len(unit) - 1) // 2, seed)
    return _thresholds(scores, fars, seed, len(names))


class _Block(NamedTuple):
    """The scores of some rows with some columns."""

    score: np.ndarray  # (r, c)
    different: np.ndarray  # (r, c) bool: the pairs that count
    first: np.ndarray  # (r,) person
    second: np.ndarray  # (c,)


def _search_blocks(
    probes: np.ndarray, gallery: np.ndarray, first: np.ndarray, second: np.ndarray
) -> Iterator[_Block]:
    """Each probe with each gallery entry, some probes at a time."""
    step = max(1, BLOCK_BYTES // (8 * max(1, len(gallery))))
    for start in range(0, len(probes), step):
        part = slice(start, start + step)
        different = first[part, None] != second
        yield _Block(probes[part] @ gallery.T, different, first[part], second)


def _set_blocks(unit: np.ndarray, person: np.ndarray) -> Iterator[_Block]:
    """Each image with those after it."""
    step = max(1, BLOCK_BYTES // (8 * max(1, len(unit))))
    for start in range(0, len(unit), step):
        rows, later = slice(start, min(start + step, len(unit))), slice(start + 1, None)
        after = np.arange(rows.start, rows.stop)[:, None] < np.arange(start + 1, len(unit))
        different = after & (person[rows, None] != person[later])
        yield _Block(unit[rows] @ unit[later].T, different, person[rows], person[later])


def _kept(blocks: Iterator[_Block], at_most: int, seed: int) -> Scores:
    """All scores where they are few; else the HIGHEST, and about as many of the others, at random."""
    share = 1.0 if at_most <= ALL_KEPT else HIGHEST / at_most
    random = np.random.default_rng(seed)
    high, others, floor, pairs = [np.empty((0, 3))], [np.empty((0, 3))], -np.inf, 0
    for block in blocks:
        pairs += int(np.count_nonzero(block.different))
        if share == 1:
            high.append(_rows(block, block.different))
            continue
        others.append(_rows(block, block.different & (random.random(block.score.shape) < share)))
        high = [_highest(np.concatenate([*high, _rows(block, block.different & (block.score > floor))]))]
        floor = high[0][:, 0].min() if len(high[0]) == HIGHEST else floor
    kept, below = np.concatenate(high), np.concatenate(others)
    # Not only lower ones: of scores equal to the lowest that is kept, some are left out.
    below = below[below[:, 0] <= kept[:, 0].min(initial=np.inf)]
    stands_for = (pairs - len(kept)) / max(1, len(below))
    weights = np.append(np.ones(len(kept)), np.full(len(below), stands_for))
    kept = np.concatenate([kept, below])
    order = np.argsort(-kept[:, 0], kind="stable")
    score, first, second = kept[order].T
    return Scores(score, first.astype(np.int64), second.astype(np.int64), weights[order], pairs, 0)


def _rows(block: _Block, chosen: np.ndarray) -> np.ndarray:
    """`(n, 3)` float64: score, person and person of the chosen pairs."""
    row, column = np.nonzero(chosen)
    return np.stack([block.score[chosen], block.first[row], block.second[column]], axis=1).astype(np.float64)


def _highest(rows: np.ndarray) -> np.ndarray:
    """The HIGHEST rows by score."""
    if len(rows) <= HIGHEST:
        return rows
    return rows[np.argpartition(rows[:, 0], -HIGHEST)[-HIGHEST:]]


def _thresholds(found: Scores, fars: np.ndarray, seed: int, people: int | None = None) -> Calibration:
    """The threshold at each rate, with its interval.

    Raises:
        ValueError: there is no pair of different people.
    """
    if not found.pairs:
        raise ValueError("there is no pair of different people to find a threshold with")
    fars, people = np.asarray(fars, dtype=np.float64), people or found.people
    accepted = np.searchsorted(found.stands_for.cumsum(), fars * found.pairs * (1 + 1e-12), side="right")
    cosine = np.array([_above_ties(found.score, count) for count in accepted])  # (F,)
    measurable = fars * found.pairs * (1 + 1e-12) >= 1
    interval = _interval(found, fars, people, seed)
    return Calibration(
        fars=fars,
        cosine=np.where(measurable, cosine, np.nan),
        interval=np.where(measurable, interval, np.nan),
        pairs=found.pairs,
        people=people,
    )


def _above_ties(descending: np.ndarray, count: int) -> float:
    """The smallest threshold that accepts at most `count` of the scores: equal ones come in all or none."""
    if count == 0:
        return np.nan
    threshold = descending[count - 1]
    if count == len(descending) or descending[count] < threshold:
        return float(threshold)
    higher = descending[descending > threshold]
    return float(higher[-1] if len(higher) else np.nextafter(threshold, np.inf))


def _interval(found: Scores, fars: np.ndarray, people: int, seed: int, resamples: int = 1000) -> np.ndarray:
    """Half widths `(F,)` over draws of people; of the lower scores every s-th stands for s."""
    step = max(1, (len(found.score) - EXACT) // SAMPLED)
    kept = np.append(np.arange(min(EXACT, len(found.score))), np.arange(EXACT, len(found.score), step))
    score, first, weight = found.score[kept], found.first[kept], found.stands_for[kept].copy()
    second = None if found.second is None else found.second[kept]
    weight[EXACT:] *= step
    random = np.random.default_rng(seed)
    thresholds = np.full((resamples, len(fars)), np.nan)
    for draw in range(resamples):
        drawn = np.bincount(random.integers(people, size=people), minlength=people).astype(np.float64)
        weights = drawn[first] * weight if second is None else drawn[first] * drawn[second] * weight
        total = weights.cumsum()
        if total[-1] == 0:
            continue
        accepted = np.searchsorted(total, fars * total[-1], side="right")
        # The last that is accepted, or the first that weighs anything: those before it were not drawn.
        thresholds[draw] = score[np.maximum(accepted - 1, np.argmax(total > 0))]
    return half_width(thresholds)
