"""IJB's templates: from images to one feature a template, and the scores of template pairs.

How the views of an image are joined, and what weighs it, is where published numbers differ (`fuse`); the
aggregation of images into medias and templates is the same everywhere (`template_features`).
"""

from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from eval.metrics import normalise

CHUNK_TEMPLATES = 256  # so few that the means of their medias stay in the processor's cache
CHUNK_PAIRS = 256  # so few that their templates stay in the processor's cache


def row_norms(features: np.ndarray) -> np.ndarray:
    """`(N, 1)` lengths, 1 for a row of zeros so that one can divide; no copy of the features is made."""
    norms = np.sqrt(np.einsum("nd,nd->n", features, features))[:, None]
    return np.where(norms == 0, 1, norms)


def join_views(plain: np.ndarray, flip: np.ndarray, fusion: str = "pre_norm_vector_add") -> np.ndarray:
    """One feature of an image and its mirror image, in the four ways that AdaFace's code names.

    "pre_norm_vector_add": the sum of the raw features. "norm_weighted_avg": its direction, with the mean
    length of both views. "average": the direction of the sum of the unit features, with that length.
    "concat": the unit features side by side, times that length.

    Args:
        plain, flip: `(N, D)` raw features.
    Returns:
        `(N, D)`; `(N, 2D)` for "concat".
    Raises:
        ValueError: an unknown fusion.
    """
    if fusion == "pre_norm_vector_add":
        return plain + flip
    plain_norms, flip_norms = row_norms(plain), row_norms(flip)
    mean_norms = (plain_norms + flip_norms) / 2
    if fusion == "concat":
        return np.concatenate([plain / plain_norms, flip / flip_norms], axis=1) * mean_norms
    if fusion == "norm_weighted_avg":
        joined = plain + flip
    elif fusion == "average":
        joined = plain / plain_norms + flip / flip_norms
    else:
        names = "'pre_norm_vector_add', 'norm_weighted_avg', 'average' and 'concat'"
        raise ValueError(f"fusion {fusion!r}: allowed are {names}")
    joined *= mean_norms / row_norms(joined)
    return joined


def fuse(
    plain: np.ndarray,
    flip: np.ndarray,
    detector_score: np.ndarray | None = None,
    *,
    flip_sum: bool = True,
    keep_norm: bool = True,
    fusion: str = "pre_norm_vector_add",
) -> np.ndarray:
    """The feature of each image, by the switches F, N and D of the IJB evaluators.

    Args:
        plain, flip: `(N, D)` raw features of the image and its mirror image.
        detector_score: D: `(N,)`, each feature is multiplied by it; None: it is not.
        flip_sum: F: join both views as `fusion` says; False: the plain view only.
        keep_norm: N: False: divide by the length, so that every image weighs the same (before D).
        fusion: see `join_views`.
    Returns:
        `(N, D)`, in the precision of the features.
    """
    feature = join_views(plain, flip, fusion) if flip_sum else plain.copy()
    if not keep_norm:
        feature /= row_norms(feature)
    if detector_score is not None:
        feature *= np.asarray(detector_score, dtype=feature.dtype)[:, None]
    return feature


def is_dead(*views: np.ndarray | None) -> bool:
    """Whether a network gave every image the same feature, in each view.

    Means over different numbers of equal features, and products with detector scores, round differently. Then
    templates that are the same would differ in their last bits, and a search would find some "first".

    Args:
        views: `(N, D)` raw features; None is left out.
    """
    given = [view for view in views if view is not None]
    # The first two rows tell a living network at once.
    return all(np.array_equal(view[0], view[min(1, len(view) - 1)]) for view in given) and all(
        (view == view[0]).all() for view in given
    )


def template_features(
    features: np.ndarray, template_ids: np.ndarray, media_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Unit feature of each template: the sum over its medias of the mean over the media's images.

    The images may come in any order: a sparse matrix with a row a media averages them, another with a row a
    template sums the medias, and no feature is copied. Means are taken in the precision of the features, sums
    in float64, as published.

    Args:
        features: `(N, D)`, one a row of the metadata.
        template_ids, media_ids: `(N,)` integers.
    Returns:
        ids `(T,)`, ascending; features `(T, D)` float64, unit (zero where the sum is).
    Raises:
        ValueError: shapes that do not fit, no image at all.
    """
    if features.ndim != 2 or not len(features) == len(template_ids) == len(media_ids) > 0:
        raise ValueError(
            f"features {features.shape}, template_ids {np.shape(template_ids)} and media_ids "
            f"{np.shape(media_ids)} do not fit: expected (N, D), (N,), (N,)"
        )
    order = np.lexsort([media_ids, template_ids])
    template, media = np.asarray(template_ids)[order], np.asarray(media_ids)[order]
    new_template = np.append(True, template[1:] != template[:-1])  # (N,) the first image of its template
    new_media = new_template | np.append(True, media[1:] != media[:-1])
    media_bounds = np.append(np.flatnonzero(new_media), len(order))
    template_bounds = np.append(np.flatnonzero(new_template[new_media]), len(media_bounds) - 1)
    per_media = np.diff(media_bounds)  # (M,) images
    share = np.repeat(1 / per_media, per_media).astype(features.dtype)  # (N,)
    unit = np.empty((len(template_bounds) - 1, features.shape[1]))
    for start in range(0, len(unit), CHUNK_TEMPLATES):
        medias = template_bounds[start : start + CHUNK_TEMPLATES + 1]
        images = media_bounds[medias[0] : medias[-1] + 1]
        members = slice(images[0], images[-1])
        num_medias = len(images) - 1
        rows = (share[members], order[members], images - images[0])
        means = csr_array(rows, shape=(num_medias, len(order))) @ features  # (m, D)
        rows = (np.ones(num_medias), np.arange(num_medias), medias - medias[0])
        sums = csr_array(rows, shape=(len(medias) - 1, num_medias)) @ means  # (t, D) float64
        unit[start : start + CHUNK_TEMPLATES] = normalise(sums)
    return template[new_template], unit


def pair_scores(templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Inner products of pairs of templates, `(P,)`, in the precision of the templates.

    Pairs are visited by their first template, which is then looked up once for all of them. A pair's score
    does not depend on the other pairs, to the last bit: equal templates tie.

    Args:
        templates: `(T, D)`.
        first, second: `(P,)` rows of `templates`, in any order.
    """
    scores = np.empty(len(first), dtype=templates.dtype)
    order = np.argsort(first)
    new_first = np.flatnonzero(np.diff(first[order], prepend=-1))
    bounds = np.union1d(new_first, np.append(np.arange(0, len(first), CHUNK_PAIRS), len(first)))
    for start, end in pairwise(bounds):
        pairs = order[start:end]
        scores[pairs] = np.vecdot(templates[second[pairs]], templates[first[pairs[0]]])
    return scores
