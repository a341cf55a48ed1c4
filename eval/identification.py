"""Searching probes in a gallery, without ever holding all scores; `eval.metrics` has the rates that follow.

Scores are inner products of unit features, in the precision of the features (float32 is off by some 1e-7 of a
cosine). One block of probes at a time meets the whole gallery: memory grows with P + G, never with P x G.

Ties go against the probe: another person that scores as high as the mate stands before it. A network that is
dead, and gives the same feature for every face, therefore scores 0.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from eval.metrics import Search, check_rates

BLOCK_BYTES = 1 << 28  # of the scores of one block of probes


class LegacyTpir(NamedTuple):
    """True positive identification rates at pair-level false positive rates, `(F,)` each."""

    tpir: np.ndarray
    threshold: np.ndarray


class _Block(NamedTuple):
    """The scores of some probes with the whole gallery, and where in them the mates are."""

    probes: slice
    scores: np.ndarray  # (b, G), may be changed
    mate_row: np.ndarray  # (M,) ascending
    mate_column: np.ndarray  # (M,)


def _blocks(
    probes: np.ndarray, gallery: np.ndarray, probe_ids: np.ndarray, gallery_ids: np.ndarray, chunk: int | None
) -> Iterator[_Block]:
    """All scores, block by block; the array is reused, so a block is gone when the next is asked for.

    Raises:
        ValueError: shapes that do not fit, an empty gallery, a feature that is not finite.
    """
    fits = probes.ndim == gallery.ndim == 2 and probes.shape[1] == gallery.shape[1]
    if not fits or probe_ids.shape != probes.shape[:1] or gallery_ids.shape != gallery.shape[:1]:
        raise ValueError(
            f"probes {probes.shape} with ids {probe_ids.shape} and gallery {gallery.shape} with ids "
            f"{gallery_ids.shape} do not fit: expected (P, D), (P,), (G, D), (G,)"
        )
    if not len(gallery):
        raise ValueError("the gallery is empty")
    for name, features in (("probe", probes), ("gallery entry", gallery)):
        if not (finite := np.isfinite(features).all(axis=1)).all():
            raise ValueError(f"the feature of {name} {finite.argmin()} is not finite")
    order = np.argsort(gallery_ids, kind="stable")
    first = np.searchsorted(gallery_ids, probe_ids, side="left", sorter=order)  # (P,) mates: order[first:end]
    end = np.searchsorted(gallery_ids, probe_ids, side="right", sorter=order)
    dtype = np.result_type(probes, gallery)
    chunk = chunk or max(1, BLOCK_BYTES // (len(gallery) * dtype.itemsize))
    buffer = np.empty((min(chunk, len(probes)), len(gallery)), dtype)
    if dead := _one_feature(probes, gallery):
        probes, gallery = (column[:, None].astype(dtype) for column in dead)  # products of one number each
    for start in range(0, len(probes), chunk):
        part = slice(start, min(start + chunk, len(probes)))
        scores = np.matmul(probes[part], gallery.T, out=buffer[: part.stop - part.start])
        count = (end - first)[part]
        mate_row = np.repeat(np.arange(len(count)), count)
        place = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)  # 0, 1 ... within a probe
        yield _Block(part, scores, mate_row, order[first[part][mate_row] + place])


def _one_feature(probes: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Probes and gallery of a dead network, which gives all the same feature, as one number each; else None.

    A matrix product rounds equal rows differently at the edges of its blocks: these would be no ties. Rows of
    zeros, templates without a face, stay 0.
    """
    have = probes.any(axis=1), gallery.any(axis=1)
    if not (have[0].any() and have[1].any()):
        return None
    one = probes[have[0].argmax()]
    if not np.array_equal(gallery[have[1].argmax()], one):
        return None
    alike = all((rows[some] == one).all() for rows, some in zip((probes, gallery), have))
    return (have[0] * np.vdot(one, one), have[1]) if alike else None


def search(
    probes: np.ndarray,
    gallery: np.ndarray,
    probe_ids: np.ndarray,
    gallery_ids: np.ndarray,
    *,
    chunk: int | None = None,
) -> Search:
    """Compare every probe with every gallery entry, and keep three numbers a probe.

    Args:
        probes, gallery: `(P, D)` and `(G, D)`, unit rows (or zero), of one floating type.
        probe_ids, gallery_ids: `(P,)` and `(G,)` integers; a probe whose identity is not in the gallery is
            unmated, one with several entries is found by the best of them.
        chunk: probes at a time; None: as many as make `BLOCK_BYTES` of scores.
    Raises:
        ValueError: shapes that do not fit, an empty gallery, a feature that is not finite.
    """
    probe_ids, gallery_ids = np.asarray(probe_ids), np.asarray(gallery_ids)
    mate_score = np.full(len(probes), -np.inf)
    top_other = np.empty(len(probes))
    mate_rank = np.empty(len(probes), dtype=np.int64)
    for part, scores, row, column in _blocks(probes, gallery, probe_ids, gallery_ids, chunk):
        best = np.full(len(scores), -np.inf, scores.dtype)
        np.maximum.at(best, row, scores[row, column])
        scores[row, column] = -np.inf  # what is left are others
        mate_score[part], top_other[part] = best, scores.max(axis=1)
        # Row by row: no second array of the size of the scores, and a row is in the cache.
        mate_rank[part] = [1 + np.count_nonzero(row >= mate) for row, mate in zip(scores, best)]
    return Search(mate_score, mate_rank, top_other)


def top_k(
    probes: np.ndarray, gallery: np.ndarray, k: int, *, chunk: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The best gallery entries of each probe, of equal ones those that come first in the gallery.

    Args:
        probes, gallery: as for `search`.
        k: entries a probe; all, if there are fewer.
    Returns:
        scores and indices, `(P, min(k, G))` each, by falling score.
    Raises:
        ValueError: see `search`.
    """
    k = min(k, len(gallery))
    scores, entries = np.empty((len(probes), k)), np.empty((len(probes), k), dtype=np.int64)
    nobody = np.full(len(probes), -1), np.arange(len(gallery))  # no mates: all entries count alike
    for part, block, _, _ in _blocks(probes, gallery, *nobody, chunk):
        least = np.partition(block, -k, axis=1)[:, -k]  # (b,) the k-th largest of each
        for row, own, floor in zip(range(part.start, part.stop), block, least):
            candidates = np.flatnonzero(own >= floor)
            entries[row] = candidates[np.argsort(-own[candidates], kind="stable")[:k]]
            scores[row] = own[entries[row]]
    return scores, entries


def legacy_tpir(
    probes: np.ndarray,
    gallery: np.ndarray,
    probe_ids: np.ndarray,
    gallery_ids: np.ndarray,
    fars: np.ndarray,
    *,
    chunk: int | None = None,
) -> LegacyTpir:
    """What insightface's ijb_1n.py and AdaFace's copy print as "TPIR@FPIR" on IJB-B and IJB-C.

    False positives are counted among pairs, not among probes: the threshold is the ceil(P rate)-th largest of
    all scores of a probe with another person. No probe is unmated, no rank counts, and score > threshold.

    Args:
        probes, gallery, probe_ids, gallery_ids, chunk: as for `search`, but every probe has exactly one mate.
        fars: `(F,)`, in (0, 1].
    Raises:
        ValueError: see `search`; a probe with no mate or several; a rate that asks for more scores than there
            are, or none.
    """
    probe_ids, gallery_ids, fars = np.asarray(probe_ids), np.asarray(gallery_ids), check_rates(fars)
    count = np.ceil(len(probes) * fars).astype(int)  # in floating point, as published
    if count.min() < 1 or count.max() > len(probes) * (len(gallery) - 1):
        raise ValueError(
            f"{len(probes)} probes and {len(gallery)} gallery entries: no threshold at rates {fars}"
        )
    mate_score = np.empty(len(probes))
    largest = np.empty(0)  # of other people so far, at most count.max()
    for part, scores, row, column in _blocks(probes, gallery, probe_ids, gallery_ids, chunk):
        num_mates = np.bincount(row, minlength=len(scores))
        if (wrong := num_mates != 1).any():
            index = int(np.argmax(wrong))
            raise ValueError(
                f"probe {part.start + index} of identity {probe_ids[part][index]} has {num_mates[index]} "
                "gallery entries, expected exactly one"
            )
        mate_score[part] = scores[row, column]
        scores[row, column] = -np.inf
        floor = largest.min() if len(largest) == count.max() else -np.inf
        largest = np.concatenate([largest, scores[scores > floor]])
        if len(largest) > count.max():
            largest = np.partition(largest, -count.max())[-count.max() :]
    threshold = np.sort(largest)[::-1][count - 1]
    return LegacyTpir((mate_score > threshold[:, None]).mean(axis=1), threshold)
