"""The protocols of IJB-B and IJB-C on features: NumPy only.

A template is the unit sum over its media of the mean over the images of each; score = inner product.

1:1: TAR at the point of the ROC whose FAR is nearest, above or below; of equally near ones the larger TAR.

1:N, "legacy" (insightface's ijb_1n.py, AdaFace): both galleries as one, so that nobody is unknown; the
threshold is the ceil(Q·FPIR)-th largest score of all Q probes with others; a mate that scores above it
counts, at any rank.

1:N, "probe" (NIST, insightface's ijb_evals.py): each gallery by itself, TPIR is the mean of both; the
threshold is the max(int(n·FPIR), 1)-th largest of the best scores of the n probes whom the gallery does not
know; a probe counts whose mate is the best and scores above it. Ranks are over all probes, each in the
gallery that knows it.

Ties go against the probe. Intervals: 95 %, over subjects drawn with replacement; those of 1:N hold the
thresholds fixed, and take both galleries as independent.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from eval.baseline import Outcomes, outcomes_at
from eval.bootstrap import bootstrap_means, bootstrap_tar
from eval.calibration import Calibration, calibrate_pairs
from eval.identification import legacy_tpir, search
from eval.ijb.data import IJB, Enrolment
from eval.metrics import Search, SortedScores, normalise
from eval.open_set import open_set, open_set_curve
from eval.templates import fuse, is_dead, pair_scores, template_features
from utils.errors import nearest

FARS = np.array([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
FPIRS = np.array([0.01, 0.1])
RANKS = np.array([1, 5, 10])
CMC_RANKS = np.arange(1, 51)


class Convention(NamedTuple):
    """What weighs an image in its template."""

    keep_norm: bool
    use_detector: bool
    flip_sum: bool

    def __str__(self) -> str:
        return f"N{self.keep_norm:d}D{self.use_detector:d}F{self.flip_sum:d}"


CONVENTIONS = {
    "insightface": Convention(keep_norm=True, use_detector=True, flip_sum=True),
    "adaface": Convention(keep_norm=True, use_detector=False, flip_sum=True),
    "cvlface": Convention(keep_norm=False, use_detector=True, flip_sum=True),
}


@dataclass(frozen=True)
class Verification:
    """1:1; shares in [0, 1]."""

    tar: np.ndarray  # (6,) at FARS
    tar_interval: np.ndarray  # (6,) half width of the 95 % interval
    far: np.ndarray  # (6,) really met
    enough_pairs: np.ndarray  # (6,) bool: whether there are at least 1/FAR pairs of different people
    cosine_threshold: np.ndarray  # (6,)
    auc: float
    calibration: Calibration
    outcomes: dict[str, Outcomes]  # what the rates are means of
    curve: tuple[np.ndarray, np.ndarray]  # FAR, TAR


@dataclass(frozen=True)
class Rates:
    """1:N in one definition; shares of the probes, in [0, 1]."""

    rank: np.ndarray  # (3,) identified at RANKS
    rank_interval: np.ndarray  # (3,) half width of the 95 % interval
    tpir: np.ndarray  # (2,) at FPIRS
    tpir_interval: np.ndarray  # (2,)
    enough_probes: np.ndarray  # (2,) bool: whether there are at least 1/FPIR probes that count for it
    cmc: np.ndarray  # (50,) identified at CMC_RANKS
    outcomes: dict[str, Outcomes]  # what the rates are means of


@dataclass(frozen=True)
class Identification:
    """1:N in both definitions."""

    legacy: Rates
    probe: Rates
    curve: tuple[np.ndarray, np.ndarray]  # FPIR, TPIR of the definition "probe"


class Templates(NamedTuple):
    """Unit features of templates."""

    ids: np.ndarray  # (T,) ascending
    features: np.ndarray  # (T, D)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The features of these templates."""
        return self.features[np.searchsorted(self.ids, ids)]


def convention_of(name: str) -> Convention:
    """A published convention by its name, or any by its switches, such as N0D1F0.

    Raises:
        ValueError: neither; with the near miss.
    """
    if name in CONVENTIONS:
        return CONVENTIONS[name]
    if switches := re.fullmatch("N([01])D([01])F([01])", name):
        return Convention(*(switch == "1" for switch in switches.groups()))
    allowed = ", ".join(CONVENTIONS)
    raise ValueError(
        f"convention {name!r}{nearest(name, CONVENTIONS)}; allowed: {allowed}, or switches such as N1D0F1"
    )


def build_templates(ijb: IJB, plain: np.ndarray, flip: np.ndarray, convention: Convention) -> Templates:
    """Features of images `(N, D)` -> features of templates; of a dead network all are equal, to the bit."""
    detector_scores = ijb.detector_scores if convention.use_detector else None
    switches = dict(flip_sum=convention.flip_sum, keep_norm=convention.keep_norm)
    if is_dead(plain, flip if convention.flip_sum else None):
        ids = np.unique(ijb.templates)
        one = normalise(fuse(plain[:1], flip[:1] if convention.flip_sum else plain[:1], **switches))
        return Templates(ids, np.repeat(one, len(ids), axis=0))
    return Templates(
        *template_features(fuse(plain, flip, detector_scores, **switches), ijb.templates, ijb.media)
    )


def verify(ijb: IJB, templates: Templates, seed: int = 0) -> Verification:
    """1:1, all pairs that the benchmark lists."""
    first, second = (np.searchsorted(templates.ids, side) for side in ijb.pairs.T)
    scores = pair_scores(templates.features, first, second)
    ascending = SortedScores(scores, ijb.same)
    found = ascending.tar_at_far(FARS)
    subjects = subjects_of(ijb, len(templates.ids), first, second)
    accepted = scores[ijb.same] >= found.threshold[:, None]
    return Verification(
        tar=found.tar,
        outcomes=outcomes_at([f"TAR @FAR={far:.0e}" for far in FARS], accepted, subjects[ijb.same, 0]),
        tar_interval=bootstrap_tar(scores, ijb.same, subjects, fars=FARS, seed=seed),
        far=found.far,
        enough_pairs=FARS * np.sum(~ijb.same) >= 1,
        cosine_threshold=found.threshold,
        auc=ascending.auc,
        calibration=calibrate_pairs(scores[~ijb.same], subjects[~ijb.same], seed=seed),
        curve=ascending.roc[:2],
    )


def subjects_of(ijb: IJB, num_templates: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The subjects of each pair, `(P, 2)`. The list does not name them, but a genuine pair shares one.

    Args:
        first, second: `(P,)`, indices of templates.
    """
    genuine = first[ijb.same], second[ijb.same]
    links = coo_array((np.ones(len(genuine[0]), np.int8), genuine), shape=(num_templates, num_templates))
    subject = connected_components(links, directed=False)[1]  # (T,)
    return np.stack([subject[first], subject[second]], axis=1)


def identify(ijb: IJB, templates: Templates, seed: int = 0) -> Identification:
    """1:N in both definitions."""
    probes, subjects = templates.of(ijb.probes.templates), ijb.probes.subjects
    together = Enrolment(*(np.concatenate(both) for both in zip(*ijb.galleries)))

    def search_in(gallery: Enrolment) -> Search:
        return search(probes, templates.of(gallery.templates), subjects, gallery.subjects)

    both = search_in(together)
    by_pairs = legacy_tpir(probes, templates.of(together.templates), subjects, together.subjects, FPIRS)
    above = both.mate_score > by_pairs.threshold[:, None]  # (2, Q)
    each = [search_in(gallery) for gallery in ijb.galleries]
    # A probe has a rank in each gallery: that in the gallery which knows it counts.
    own_rank = np.where(each[0].mated, each[0].mate_rank, each[1].mate_rank)
    at = open_set(each, subjects, FPIRS, rule="ijb", seed=seed)

    def rates(rank: np.ndarray, tpir: np.ndarray, interval: np.ndarray, enough: np.ndarray) -> Rates:
        within = rank <= RANKS[:, None]  # (3, Q)
        return Rates(
            rank=within.mean(axis=1),
            rank_interval=bootstrap_means(within, subjects, seed),
            outcomes=outcomes_at([f"rank-{k}" for k in RANKS], within, subjects),
            tpir=tpir,
            tpir_interval=interval,
            enough_probes=enough,
            cmc=(rank <= CMC_RANKS[:, None]).mean(axis=1),
        )

    above_interval = bootstrap_means(above, subjects, seed)
    return Identification(
        legacy=rates(both.mate_rank, by_pairs.tpir, above_interval, FPIRS * len(probes) >= 1),
        probe=rates(own_rank, at.tpir, at.interval, at.enough),
        curve=open_set_curve(each, rule="ijb"),
    )
