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

Ties go against the probe.
"""

import re
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from eval.bootstrap import bootstrap_mean, bootstrap_tar
from eval.identification import legacy_tpir, search
from eval.ijb.data import IJB, Enrolment
from eval.metrics import Search, auc, cmc, dir_at_far, open_set_curve, roc, tar_at_far
from eval.templates import fuse, pair_scores, template_features
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
    """Features of images `(N, D)` -> features of templates."""
    detector_scores = ijb.detector_scores if convention.use_detector else None
    switches = dict(flip_sum=convention.flip_sum, keep_norm=convention.keep_norm)
    return Templates(
        *template_features(fuse(plain, flip, detector_scores, **switches), ijb.templates, ijb.media)
    )


def verify(ijb: IJB, templates: Templates, seed: int = 0) -> dict:
    """1:1: TAR at FARS with intervals, AUC, and the ROC as arrays."""
    first, second = (np.searchsorted(templates.ids, side) for side in ijb.pairs.T)
    scores = pair_scores(templates.features, first, second)
    found = tar_at_far(scores, ijb.same, FARS)
    subjects = subjects_of(ijb, len(templates.ids), first, second)
    far, tar, _ = roc(scores, ijb.same)
    return {
        "tar": found.tar,
        "tar_interval": bootstrap_tar(scores, ijb.same, subjects, fars=FARS, seed=seed),
        "far": found.far,
        "enough_pairs": FARS * np.sum(~ijb.same) >= 1,  # of 1,000 pairs none is a millionth
        "cosine_threshold": found.threshold,
        "auc": auc(scores, ijb.same),
        "roc": (far, tar),
    }


def subjects_of(ijb: IJB, num_templates: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Who is on both sides of each pair, `(P, 2)`: the 1:1 lists tell it only through their genuine pairs.

    Args:
        first, second: `(P,)`, indices of templates.
    """
    genuine = first[ijb.same], second[ijb.same]
    links = coo_array((np.ones(len(genuine[0]), np.int8), genuine), shape=(num_templates, num_templates))
    subject = connected_components(links, directed=False)[1]  # (T,)
    return np.stack([subject[first], subject[second]], axis=1)


def identify(ijb: IJB, templates: Templates, seed: int = 0) -> dict[str, dict]:
    """1:N in both definitions: rates at RANKS, TPIR at FPIRS, with intervals; CMC and open-set curve."""
    probes = templates.of(ijb.probes.templates)
    together = Enrolment(*(np.concatenate(both) for both in zip(*ijb.galleries)))

    def search_in(gallery: Enrolment) -> Search:
        return search(probes, templates.of(gallery.templates), ijb.probes.subjects, gallery.subjects)

    legacy = search_in(together)
    pairs = probes, templates.of(together.templates), ijb.probes.subjects, together.subjects
    searches = [search_in(gallery) for gallery in ijb.galleries]
    # Of the two ranks of a probe one is that in the gallery of its mate; in the other it has none.
    own_rank = np.where(searches[0].mated, searches[0].mate_rank, searches[1].mate_rank)
    by_pairs = legacy_tpir(*pairs, FPIRS)
    above = legacy.mate_score > by_pairs.threshold[:, None]  # (2, Q)
    halves = np.array([open_set(found, ijb.probes.subjects, seed) for found in searches])
    tpir, interval = halves.transpose(1, 0, 2)  # (2 galleries, 2 FPIRs) each
    return {
        "legacy": ranked(legacy.mate_rank, ijb.probes.subjects, seed)
        | {"tpir": by_pairs.tpir, "tpir_interval": intervals(above, ijb.probes.subjects, seed)}
        | {"cmc": cmc(legacy, CMC_RANKS)},
        "probe": ranked(own_rank, ijb.probes.subjects, seed)
        | {"tpir": tpir.mean(axis=0), "tpir_interval": np.hypot(*interval) / 2}
        | {"cmc": (own_rank <= CMC_RANKS[:, None]).mean(axis=1)}
        | {"open_set": open_set_curve(searches, rule="ijb")},
    }


def open_set(found: Search, subjects: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """TPIR at FPIRS in one gallery, and its intervals with the thresholds as they are, `(2,)` each."""
    at = dir_at_far(found, found.top_other[~found.mated], FPIRS, np.array([1]), rule="ijb")
    hits = (found.mate_rank == 1) & (found.mate_score > at.threshold[:, None])  # (2, Q)
    return at.dir[:, 0], intervals(hits[:, found.mated], subjects[found.mated], seed)


def ranked(rank: np.ndarray, subjects: np.ndarray, seed: int) -> dict:
    """The share of the probes `(Q,)` within each of RANKS, with its interval."""
    within = rank <= RANKS[:, None]  # (3, Q)
    return {"rank": within.mean(axis=1), "rank_interval": intervals(within, subjects, seed)}


def intervals(hits: np.ndarray, subjects: np.ndarray, seed: int) -> np.ndarray:
    """Half width of the 95 % interval of the mean of each row of hits `(R, Q)`, `(R,)`."""
    return np.array([bootstrap_mean(row, subjects, seed) for row in hits])
