"""Rates that the protocols share: NumPy on features, scores and searches, each published variant by its name.

1:1: `roc`, `auc`, `tar_at_far`. 1:N: `cmc`, `dir_at_far`, of what `eval.identification.search` finds. Every
tie is decided by a rule.
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np

CURVE_FPIRS = np.geomspace(1e-3, 1, 61)  # where open-set curves are drawn


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


class TarAtFar(NamedTuple):
    """True accept rates at wanted false accept rates, `(F,)` each."""

    tar: np.ndarray  # share of the same-person pairs that are accepted
    far: np.ndarray  # share of the other pairs that really are
    threshold: np.ndarray  # a pair is accepted where score >= threshold


class SortedScores:
    """The scores of pairs, sorted once: for a protocol that wants the ROC, the AUC and several rates of them.

    Args:
        scores: `(P,)`, higher is more alike.
        same: `(P,)`, true where both are the same person.
    Raises:
        ValueError: shapes that differ, a score that is not finite, one kind of pair only.
    """

    def __init__(self, scores: np.ndarray, same: np.ndarray):
        scores, same = np.asarray(scores, dtype=np.float64), np.asarray(same).astype(bool)
        if scores.ndim != 1 or scores.shape != same.shape:
            raise ValueError(
                f"scores {scores.shape} and same {same.shape} do not fit: expected (P,) and (P,)"
            )
        if not (finite := np.isfinite(scores)).all():
            number, first = (~finite).sum(), finite.argmin()
            raise ValueError(f"{number} of {len(scores)} scores are not finite: pair {first} is the first")
        if same.all() or not same.any():
            kind = "the same person" if same.all() else "different people"
            raise ValueError(f"all {len(same)} pairs are of {kind}, expected both kinds")
        self.other, self.own = np.sort(scores[~same]), np.sort(scores[same])  # ascending

    @cached_property
    def roc(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the function `roc` returns."""
        other, own = self.other, self.own
        every = np.sort(np.concatenate([other, own]), kind="stable")[::-1]  # merges what is sorted already
        last = np.flatnonzero(np.append(every[1:] != every[:-1], True))  # (U,) of each run of equal scores
        thresholds = every[last]
        accepted_own = len(own) - np.searchsorted(own, thresholds)  # (U,)
        accepted_other = last + 1 - accepted_own
        kept = np.ones(len(last), dtype=bool)  # both ends always
        kept[1:-1] = (np.diff(accepted_own, 2) != 0) | (np.diff(accepted_other, 2) != 0)
        far = np.append(0, accepted_other[kept]) / len(other)
        tar = np.append(0, accepted_own[kept]) / len(own)
        return far, tar, np.append(np.inf, thresholds[kept])

    @property
    def auc(self) -> float:
        """What the function `auc` returns."""
        wins = sum(np.searchsorted(self.other, self.own, side).sum() for side in ("left", "right"))
        return float(wins / (2 * len(self.own) * len(self.other)))

    def tar_at_far(self, fars: np.ndarray, rule: str = "nearest") -> TarAtFar:
        """What the function `tar_at_far` returns."""
        fars = check_rates(fars)
        if rule == "nearest":
            far, tar, thresholds = self.roc
            chosen = np.array([len(far) - 1 - np.abs(far[::-1] - wanted).argmin() for wanted in fars])
            return TarAtFar(tar[chosen], far[chosen], thresholds[chosen])
        if rule != "rounded":
            raise ValueError(f"rule {rule!r}: allowed are 'nearest' and 'rounded'")
        count = np.round(fars * len(self.other)).astype(int)  # (F,)
        threshold = np.append(self.other, self.other[-1] + 1e-8)[len(self.other) - count]
        tar, far = (share_accepted(kind, threshold) for kind in (self.own, self.other))
        return TarAtFar(tar, far, threshold)


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
        ValueError: see `SortedScores`.
    """
    return SortedScores(scores, same).roc


def auc(scores: np.ndarray, same: np.ndarray) -> float:
    """Area under the ROC curve: how often a same-person pair beats another; a tie is half a win.

    Counted in integers (Mann-Whitney), so that it is exact. Arguments and errors as `roc`.
    """
    return SortedScores(scores, same).auc


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
        ValueError: see `SortedScores`; a rate outside [0, 1]; an unknown rule.
    """
    return SortedScores(scores, same).tar_at_far(fars, rule)


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


class Search(NamedTuple):
    """What the protocols need of each probe's scores, `(P,)` each. Mates: gallery entries of its identity."""

    mate_score: np.ndarray  # of the best mate; -inf: there is none
    mate_rank: np.ndarray  # 1 + the number of other entries that score as much or more
    top_other: np.ndarray  # of the best other entry; -inf: there is none

    @property
    def mated(self) -> np.ndarray:
        """`(P,)`: whether the probe's identity is in the gallery."""
        return self.mate_score > -np.inf


class DirAtFar(NamedTuple):
    """Detection and identification rates at wanted false positive identification rates."""

    dir: np.ndarray  # (F, R) share of the mated probes that are identified
    threshold: np.ndarray  # (F,)
    far: np.ndarray  # (F,) share of the unmated probes that really raise an alarm
    identified: np.ndarray  # (F, R, M) bool, which of the mated probes are


def cmc(found: Search, ranks: np.ndarray) -> np.ndarray:
    """`(R,)`: the share of the mated probes that have a mate among the `rank` best, for each rank.

    Raises:
        ValueError: no probe has a mate.
    """
    return _identified(found, ranks, np.array([-np.inf]), strict=False)[0].mean(axis=1)


def _identified(found: Search, ranks: np.ndarray, thresholds: np.ndarray, strict: bool) -> np.ndarray:
    """`(F, R, M)` bool: which of the mated probes have a mate of at most this rank that scores enough."""
    score, rank = found.mate_score[found.mated], found.mate_rank[found.mated]
    if not len(score):
        raise ValueError("no probe has a mate in the gallery")
    enough = np.greater if strict else np.greater_equal
    accepted = enough(score, thresholds[:, None])  # (F, M)
    ranked = rank <= np.atleast_1d(ranks)[:, None]  # (R, M)
    return accepted[:, None] & ranked


def dir_at_far(
    mated: Search, unmated_top: np.ndarray, fars: np.ndarray, ranks: np.ndarray, rule: str = "round"
) -> DirAtFar:
    """Open-set identification: a mated probe counts if a mate is among the `rank` best and scores enough.

    The threshold of a rate is the k-th largest of the U unmated probes' best scores:

    "round" (SurvFace): k = round(rate U), half to even; the largest + 1e-5 where k is 0; score >= threshold.
    "truncate" (IJB-S): k = int(rate U); the largest + 1e-8 where k is 0; score >= threshold.
    "ijb" (insightface's ijb_evals.py): k = max(int(rate U), 1); score > threshold.

    Args:
        mated: probes without a mate are left out.
        unmated_top: `(U,)`, `top_other` of the probes that have no mate.
        fars: `(F,)` false positive identification rates, in [0, 1].
        ranks: `(R,)`.
        rule: one of the three.
    Raises:
        ValueError: an unknown rule, a rate outside [0, 1], no mated or no unmated probe.
    """
    fars, top = check_rates(fars), np.sort(np.asarray(unmated_top, dtype=np.float64))[::-1]
    if not len(top):
        raise ValueError("there is no unmated probe to set the threshold by")
    if rule == "round":
        count, margin = np.round(fars * len(top)).astype(int), 1e-5
    elif rule == "truncate":
        count, margin = (fars * len(top)).astype(int), 1e-8
    elif rule == "ijb":
        count, margin = np.maximum((fars * len(top)).astype(int), 1), 0
    else:
        raise ValueError(f"rule {rule!r}: allowed are 'round', 'truncate' and 'ijb'")
    threshold = np.append(top[0] + margin, top)[count]
    strict = rule == "ijb"
    alarms = top > threshold[:, None] if strict else top >= threshold[:, None]
    identified = _identified(mated, ranks, threshold, strict)
    return DirAtFar(identified.mean(axis=2), threshold, alarms.mean(axis=1), identified)
