"""The protocols of QMUL-SurvFace on features: NumPy only. Features are unit, score = cosine.

Verification, as in NDR's notebook: at a false accept rate FAR the threshold is the k-th largest score of
the N negative pairs, k = round(FAR N) (half to even), above all of them where k = 0; a pair is accepted
where score >= threshold. Mean accuracy is that of kfold.py: ten folds, each a tenth of the positive pairs
and a tenth of the negative ones, in the order of the lists.

Identification, as the paper defines it (NDR's code swaps gallery and probes): mated and unmated probes are
searched among single gallery images. FPIR is the share of unmated probes whose best score reaches the
threshold, the round(FPIR U)-th largest of these best scores; TPIR20 the share of mated probes with a mate
that scores at least the threshold and is among the 20 best. The closed-set ranks ask for no threshold. Ties
go against the probe.

Intervals: 95 %, over people drawn with replacement; those of identification hold the thresholds fixed. The
spread of the accuracy is the standard deviation over the folds.
"""

from dataclasses import dataclass

import numpy as np

from eval.baseline import Outcomes, outcomes_at
from eval.bootstrap import bootstrap_means, bootstrap_tar
from eval.calibration import Calibration, calibrate_pairs
from eval.folds import mixed_order
from eval.identification import search
from eval.kfold import evaluate
from eval.metrics import CURVE_FPIRS, SortedScores, cmc, dir_at_far

FARS = np.array([0.3, 0.1, 0.01, 0.001])
FPIRS = np.array([0.3, 0.2, 0.1, 0.01])
RANKS = np.array([1, 5, 10, 20])
CMC_RANKS = np.arange(1, 101)
TPIR_RANK = 20
NUM_FOLDS = 10
NOBODY = -1  # the identity of unmated probes


@dataclass(frozen=True)
class PairResult:
    """Verification; shares in [0, 1]."""

    tpr: np.ndarray  # (4,) at FARS
    interval: np.ndarray  # (4,) half width of the 95 % interval of tpr
    far: np.ndarray  # (4,) really met
    threshold: np.ndarray  # (4,) cosine
    auc: float
    calibration: Calibration
    outcomes: dict[str, Outcomes]  # what the rates are means of
    fold_accuracy: np.ndarray  # (10,)
    curve: tuple[np.ndarray, np.ndarray]  # far, tpr

    @property
    def accuracy(self) -> float:
        """Mean over the folds."""
        return float(self.fold_accuracy.mean())

    @property
    def std(self) -> float:
        """Standard deviation over the folds, of the population."""
        return float(self.fold_accuracy.std())


@dataclass(frozen=True)
class ProbeResult:
    """Identification; shares in [0, 1]."""

    tpir: np.ndarray  # (4,) TPIR20 at FPIRS
    tpir_interval: np.ndarray  # (4,) half width of the 95 % interval
    fpir: np.ndarray  # (4,) really met
    threshold: np.ndarray  # (4,) cosine
    rate: np.ndarray  # (4,) of the mated probes, identified at RANKS
    rate_interval: np.ndarray  # (4,)
    cmc: np.ndarray  # (100,) at CMC_RANKS
    curve: tuple[np.ndarray, np.ndarray]  # fpir, TPIR20
    outcomes: dict[str, Outcomes]  # what the rates are means of


def evaluate_pairs(
    first: np.ndarray, second: np.ndarray, same: np.ndarray, people: np.ndarray, seed: int = 0
) -> PairResult:
    """Verification of pairs.

    Args:
        first, second: `(P, D)` unit rows (or zero), the images of each pair.
        same: `(P,)` bool.
        people: `(P, 2)` identities, for the bootstrap.
        seed: of the bootstrap.
    """
    scores = np.einsum("pd,pd->p", first, second)
    order = mixed_order(same)
    both = np.stack([first[order], second[order]], axis=1).reshape(-1, first.shape[1])  # (2P, D)
    ascending = SortedScores(scores, same)
    at_far = ascending.tar_at_far(FARS, rule="rounded")
    accepted = scores[same] >= at_far.threshold[:, None]
    return PairResult(
        tpr=at_far.tar,
        interval=bootstrap_tar(scores, same, people, fars=FARS, seed=seed),
        outcomes=outcomes_at([f"TPR @FAR={far:g}" for far in FARS], accepted, people[same, 0]),
        far=at_far.far,
        threshold=at_far.threshold,
        auc=ascending.auc,
        calibration=calibrate_pairs(scores[~same], people[~same], seed=seed),
        fold_accuracy=evaluate(both, same[order], NUM_FOLDS).accuracy,
        curve=ascending.roc[:2],
    )


def evaluate_probes(
    gallery: np.ndarray,
    mated: np.ndarray,
    unmated: np.ndarray,
    gallery_ids: np.ndarray,
    mated_ids: np.ndarray,
    seed: int = 0,
) -> ProbeResult:
    """Open-set and closed-set identification; memory grows with probes and gallery, never with their product.

    Args:
        gallery, mated, unmated: `(G, D)`, `(M, D)`, `(U, D)` unit rows (or zero).
        gallery_ids, mated_ids: `(G,)` and `(M,)`, not negative; every mated probe is in the gallery.
        seed: of the bootstrap.
    """
    found = search(mated, gallery, mated_ids, gallery_ids)
    strangers = search(unmated, gallery, np.full(len(unmated), NOBODY), gallery_ids).top_other
    open_set = dir_at_far(found, strangers, FPIRS, [TPIR_RANK], rule="round")
    curve = dir_at_far(found, strangers, CURVE_FPIRS, [TPIR_RANK], rule="round")
    within, identified = found.mate_rank <= RANKS[:, None], open_set.identified[:, 0]
    return ProbeResult(
        tpir=open_set.dir[:, 0],
        fpir=open_set.far,
        threshold=open_set.threshold,
        tpir_interval=bootstrap_means(identified, mated_ids, seed),
        rate=cmc(found, RANKS),
        rate_interval=bootstrap_means(within, mated_ids, seed),
        outcomes=outcomes_at([f"rank-{rank}" for rank in RANKS], within, mated_ids)
        | outcomes_at([f"TPIR{TPIR_RANK} @FPIR={fpir:g}" for fpir in FPIRS], identified, mated_ids),
        cmc=cmc(found, CMC_RANKS),
        curve=(curve.far, curve.dir[:, 0]),
    )
