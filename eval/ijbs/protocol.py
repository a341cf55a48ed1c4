"""The protocols of IJB-S on features: NumPy only."""

from dataclasses import dataclass

import numpy as np

from eval.bootstrap import bootstrap_mean
from eval.identification import search
from eval.ijbs.data import Protocol
from eval.metrics import Search, cmc, dir_at_far, normalise, open_set_curve

RANKS = np.array([1, 5, 10])
FPIRS = np.array([0.01, 0.1])
CMC_RANKS = np.arange(1, 51)


@dataclass(frozen=True)
class IJBSResult:
    """Of one protocol; shares in [0, 1]."""

    num_mated: int  # probes with a mate in G1 or G2
    rate: np.ndarray  # (3,) of them identified at RANKS
    rate_interval: np.ndarray  # (3,) half width of the 95 % interval
    tpir: np.ndarray  # (2,) at FPIRS
    tpir_interval: np.ndarray  # (2,)
    fpir: np.ndarray  # (2,) what the thresholds really let pass
    cmc: np.ndarray  # (50,) identified at CMC_RANKS
    curve: tuple[np.ndarray, np.ndarray]  # FPIR, TPIR


def sum_sightings(features: np.ndarray, sighting: np.ndarray, num_sightings: int) -> np.ndarray:
    """Sums over the frames of each sighting, `(num_sightings, D)` float64; of no frame 0.

    Args:
        features: `(N, D)`, raw.
        sighting: `(N,)` ascending, in [0, num_sightings).
    """
    sums = np.zeros((num_sightings, features.shape[1]))
    first = np.flatnonzero(np.diff(sighting, prepend=-1))
    sums[sighting[first]] = np.add.reduceat(features, first, axis=0, dtype=np.float64)
    return sums


def template_features(sums: np.ndarray, parts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Unit means over the frames of templates, `(T, D)`: as a mean is a sum but for its length, of the sums.

    Args:
        sums: `(S, D)` of each sighting.
        parts, starts: `(M,)` and `(T,)`, see `ijbs.data.IJBS`.
    """
    return normalise(np.add.reduceat(sums[parts], starts, axis=0))


def evaluate(features: np.ndarray, subjects: np.ndarray, protocol: Protocol, seed: int = 0) -> IJBSResult:
    """One protocol's numbers.

    Args:
        features: `(T, D)` of all templates, unit rows (or zero).
        subjects: `(T,)`.
        seed: of the bootstrap.
    """
    people = subjects[protocol.probes]

    def find(gallery: np.ndarray) -> Search:
        return search(features[protocol.probes], features[gallery], people, subjects[gallery])

    both = find(np.concatenate(protocol.galleries))
    ranks, mated = both.mate_rank[both.mated], people[both.mated]
    each = [find(gallery) for gallery in protocol.galleries]
    halves = [open_set(found, people, seed) for found in each]
    tpir, interval, fpir = np.array(halves).transpose(1, 0, 2)  # (2 halves, 2 FPIRs) each
    return IJBSResult(
        num_mated=len(mated),
        rate=cmc(both, RANKS),
        rate_interval=np.array([bootstrap_mean(ranks <= rank, mated, seed) for rank in RANKS]),
        tpir=tpir.mean(axis=0),
        tpir_interval=np.hypot(*interval) / 2,
        fpir=fpir.mean(axis=0),
        cmc=cmc(both, CMC_RANKS),
        curve=open_set_curve(each, rule="truncate"),
    )


def open_set(found: Search, people: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """TPIR at rank 1, half width of its interval, and the FPIR it really has: `(2,)` each, at FPIRS.

    Args:
        found: a search in one gallery, of probes with and without a mate.
        people: `(P,)` identities of the probes.
    """
    at = dir_at_far(found, found.top_other[~found.mated], FPIRS, ranks=[1], rule="truncate")
    first = found.mate_rank == 1
    hits = [(first & (found.mate_score >= threshold))[found.mated] for threshold in at.threshold]
    return at.dir[:, 0], np.array([bootstrap_mean(h, people[found.mated], seed) for h in hits]), at.far
