"""Open-set identification in two galleries of different people, as IJB-B, IJB-C and IJB-S have it.

Each gallery is searched by itself: the probes whom it does not know set the threshold, and a probe whom it
knows counts if its mate comes first and scores enough. Rates are means over both galleries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.bootstrap import bootstrap_means
from eval.metrics import CURVE_FPIRS, DirAtFar, Search, dir_at_far


class OpenSet(NamedTuple):
    """True positive identification rates (TPIR) at false positive ones (FPIR); shares in [0, 1]."""

    tpir: np.ndarray  # (F,) at the wanted FPIRs
    interval: np.ndarray  # (F,) half width of the 95 % interval of tpir
    fpir: np.ndarray  # (F,) what the thresholds really let pass
    enough: np.ndarray  # (F,) bool: whether each gallery has at least 1/FPIR probes that it does not know


def open_set(
    searches: Sequence[Search], people: np.ndarray, fpirs: np.ndarray, rule: str, seed: int = 0
) -> OpenSet:
    """Means over both galleries. The interval holds thresholds fixed, and takes the galleries as independent.

    Args:
        searches: in each of the two galleries, for the same probes, some with and some without a mate in it.
        people: `(P,)`, whose the probes are.
        fpirs: `(F,)`, in [0, 1].
        rule: how a rate becomes a threshold, see `metrics.dir_at_far`.
        seed: of the bootstrap.
    """
    rates = [at_rank_1(found, fpirs, rule) for found in searches]
    intervals = [
        bootstrap_means(at.identified[:, 0], people[found.mated], seed) for at, found in zip(rates, searches)
    ]
    fpir, tpir = means(rates)
    unknown = min(np.sum(~found.mated) for found in searches)
    return OpenSet(tpir, np.hypot(*intervals) / 2, fpir, fpirs * unknown >= 1)


def open_set_curve(searches: Sequence[Search], rule: str) -> tuple[np.ndarray, np.ndarray]:
    """FPIR and TPIR at CURVE_FPIRS, `(61,)` each, means over the galleries. Arguments as of `open_set`."""
    return means([at_rank_1(found, CURVE_FPIRS, rule) for found in searches])


def at_rank_1(found: Search, fpirs: np.ndarray, rule: str) -> DirAtFar:
    """The rates in one gallery."""
    return dir_at_far(found, found.top_other[~found.mated], fpirs, ranks=[1], rule=rule)


def means(rates: Sequence[DirAtFar]) -> tuple[np.ndarray, np.ndarray]:
    """FPIR and TPIR, `(F,)` each."""
    return np.mean([at.far for at in rates], axis=0), np.mean([at.dir[:, 0] for at in rates], axis=0)
