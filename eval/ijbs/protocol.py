"""The protocols of IJB-S on features, those of Probabilistic Face Embeddings' and AdaFace's code: NumPy only.

The feature of a frame is raw, so frames count by their norms; that of a template is unit(mean over its
frames); score = cosine. A template without a face (none was found in its frames) is zero, scores 0 with
all, and stays in the count.

rank-k: of the probes that have a mate in G1 and G2 taken together. TPIR at an FPIR: in G1 and in G2,
averaged; of the probes that have a mate, those whose mate comes first and scores at least the threshold.
The threshold is the n-th largest among the best scores of the probes that have no mate; n = FPIR x their
number, rounded down; where n is 0, it is 1e-8 above the largest.

Ties go against the probe: another template that scores as high as the mate stands before it (the public
code leaves this to an unstable sort). Intervals: 95 %, over people drawn with replacement; those of TPIR
hold the thresholds fixed, and take G1 and G2 as independent.
"""

from dataclasses import dataclass

import numpy as np

from eval.baseline import Outcomes, outcomes_at
from eval.bootstrap import bootstrap_means
from eval.calibration import Calibration, calibrate_search
from eval.identification import search
from eval.ijbs.data import Protocol
from eval.metrics import Search, cmc, normalise
from eval.open_set import open_set, open_set_curve

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
    enough_probes: np.ndarray  # (2,) bool: whether each gallery has 1/FPIR probes that it does not know
    cmc: np.ndarray  # (50,) identified at CMC_RANKS
    calibration: Calibration
    outcomes: dict[str, Outcomes]  # what the rates are means of
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


def templates_of_sightings(
    sums: np.ndarray, parts: np.ndarray, starts: np.ndarray, dead: bool = False
) -> np.ndarray:
    """Unit features of templates, `(T, D)`: the sum of a template's sightings has the direction of the mean.

    Args:
        sums: `(S, D)` of each sighting.
        parts, starts: `(M,)` and `(T,)`, see `ijbs.data.IJBS`.
        dead: every frame has the same feature, see `templates.is_dead`: so have all templates with a face.
    """
    unit = normalise(np.add.reduceat(sums[parts], starts, axis=0))
    has_face = unit.any(axis=1)
    return np.where(has_face[:, None], unit[has_face.argmax()], 0) if dead else unit


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

    gallery = np.concatenate(protocol.galleries)
    both = find(gallery)
    ranks, mated = both.mate_rank[both.mated], people[both.mated]
    each = [find(gallery) for gallery in protocol.galleries]
    at = open_set(each, people, FPIRS, rule="truncate", seed=seed)
    within = ranks <= RANKS[:, None]
    return IJBSResult(
        num_mated=len(mated),
        rate=cmc(both, RANKS),
        rate_interval=bootstrap_means(within, mated, seed),
        outcomes=outcomes_at([f"rank-{rank}" for rank in RANKS], within, mated),
        tpir=at.tpir,
        tpir_interval=at.interval,
        fpir=at.fpir,
        enough_probes=at.enough,
        cmc=cmc(both, CMC_RANKS),
        calibration=calibrate_search(
            features[protocol.probes], features[gallery], people, subjects[gallery], seed=seed
        ),
        curve=open_set_curve(each, rule="truncate"),
    )
