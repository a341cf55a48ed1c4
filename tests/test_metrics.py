"""The counts and rates behind every protocol, against plain loops, scikit-learn and SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import KFold

from eval.metrics import (
    auc,
    check_unit,
    count_accepted,
    fold_of_each,
    normalise,
    ratio,
    roc,
    tar_at_far,
    threshold_at_far,
)

THRESHOLDS = np.arange(0, 4, 0.01)


@given(st.integers(2, 200), st.integers(2, 20))
def test_folds_are_those_of_scikit_learn(num_items, num_folds):
    if num_folds > num_items:
        with pytest.raises(ValueError, match=f"{num_items} items cannot be split into {num_folds} folds"):
            fold_of_each(num_items, num_folds)
        return
    fold = fold_of_each(num_items, num_folds)
    for f, (_, held_out) in enumerate(KFold(num_folds, shuffle=False).split(np.zeros(num_items))):
        assert np.array_equal(np.flatnonzero(fold == f), held_out)


# Distances on a threshold, a rounding error beside one, and anywhere, below and above the range too.
on_threshold = st.sampled_from(THRESHOLDS.tolist())
distances = on_threshold | on_threshold.map(lambda t: float(np.nextafter(t, 9))) | st.floats(-1, 5)


@settings(max_examples=100)
@given(st.lists(st.tuples(distances, st.integers(0, 3)), min_size=1, max_size=30))
def test_acceptance_is_strict_and_counts_are_those_of_a_loop(items):
    distance, group = (np.array(column) for column in zip(*items))
    expected = [[np.sum((distance < t) & (group == g)) for t in THRESHOLDS] for g in range(4)]
    counts = count_accepted(distance, group, 4, THRESHOLDS)
    assert counts.dtype.kind == "i"
    assert np.array_equal(counts, expected)


def test_a_nan_distance_is_never_accepted():
    assert count_accepted(np.array([np.nan]), np.array([0]), 1, THRESHOLDS).sum() == 0


@settings(max_examples=100)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_threshold_at_far_is_the_inverse_of_a_staircase(steps, target):
    counts = np.concatenate([[0], np.cumsum(steps)])
    far = counts / max(counts[-1], 1)
    grid = np.linspace(0, 4, len(far), endpoint=False)
    threshold = threshold_at_far(far, grid, target)
    if counts[-1] == 0:
        assert threshold == 0
    else:  # the rate there is the target, and nowhere below is it attained
        assert np.interp(threshold, grid, far) == pytest.approx(target, abs=1e-12)
        assert (far[grid < threshold - 1e-12] < target).all()


def test_threshold_at_far_equals_scipy_where_no_rate_repeats():
    far = np.array([0, 0.0004, 0.0009, 0.003, 0.2, 1])
    grid = np.arange(6) * 0.1
    expected = interp1d(far, grid, kind="slinear")
    for target in (1e-4, 4e-4, 1e-3, 0.1, 1):
        assert threshold_at_far(far, grid, target) == pytest.approx(expected(target), abs=1e-12)


def test_threshold_at_far_takes_the_strictest_of_a_plateau():
    far = np.array([0, 0, 0.001, 0.001, 0.001, 0.5])
    assert threshold_at_far(far, np.arange(6.0), 0.001) == 2


def test_threshold_at_far_accepts_nothing_where_the_target_is_never_met():
    assert threshold_at_far(np.array([0, 0, 0.0005]), np.arange(3.0), 0.001) == 0


def test_a_row_of_zeros_stays_zero_and_all_others_get_length_one():
    rows = normalise(np.array([[3, 4], [0, 0], [-1e-20, 0]], dtype=np.float32))
    assert rows.dtype == np.float64
    assert np.allclose(rows, [[0.6, 0.8], [0, 0], [-1, 0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.5, 2.0])
def test_rows_that_are_not_unit_are_named(bad):
    rows = np.eye(4)
    check_unit(rows)
    rows[2, 2] = bad
    with pytest.raises(ValueError, match=r"1 of 4 embeddings .* of image 2,"):
        check_unit(rows)


def test_a_ratio_to_nothing_is_what_was_asked_for():
    assert ratio(np.array([1, 0]), np.array([4, 0]), if_empty=7).tolist() == [0.25, 7]


# Scores of few values, so that ties abound, and of any value.
score = st.integers(0, 5).map(float) | st.floats(-1, 1)
pairs = st.lists(st.tuples(score, st.booleans()), min_size=2, max_size=60).filter(
    lambda items: {same for _, same in items} == {True, False}
)


@settings(max_examples=60)
@given(pairs)
def test_roc_and_auc_are_those_of_scikit_learn(items):
    scores, same = (np.array(column) for column in zip(*items))
    for got, expected in zip(roc(scores, same), roc_curve(same, scores)):
        assert np.array_equal(got, expected)
    assert auc(scores, same) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


@settings(max_examples=60)
@given(pairs, st.sampled_from([0, 1e-6, 0.05, 0.1, 0.25, 1 / 3, 0.5, 1]))
def test_the_nearest_rate_is_the_one_that_the_public_evaluators_take(items, wanted):
    scores, same = (np.array(column) for column in zip(*items))
    fpr, tpr, thresholds = (np.flipud(curve) for curve in roc_curve(same, scores))
    chosen = min(zip(np.abs(fpr - wanted), range(len(fpr))))[1]  # the smallest index on ties
    got = tar_at_far(scores, same, [wanted])
    assert (got.tar, got.far, got.threshold) == (tpr[chosen], fpr[chosen], thresholds[chosen])


@settings(max_examples=60)
@given(pairs, st.floats(0, 1))
def test_the_rounded_threshold_accepts_what_a_loop_accepts(items, wanted):
    scores, same = (np.array(column) for column in zip(*items))
    others = sorted(scores[~same], reverse=True)
    k = round(len(others) * wanted)  # half to even
    threshold = others[k - 1] if k else others[0] + 1e-8
    got = tar_at_far(scores, same, [wanted], rule="rounded")
    assert got.threshold == threshold
    assert got.tar == pytest.approx(np.mean(scores[same] >= threshold))
    assert got.far == pytest.approx(np.mean(scores[~same] >= threshold))


def test_equally_near_rates_give_the_larger_tar():
    scores, same = np.array([4, 3, 2, 1.0]), np.array([False, True, False, True])
    got = tar_at_far(scores, same, [0.25])  # 0 and 0.5 are equally near
    assert (got.tar, got.far) == (0.5, 0.5)


def test_a_rounded_rate_that_allows_nobody_still_has_its_row():
    scores, same = np.array([0.9, 0.8, 0.7, 0.1], dtype=np.float32), np.array([True, False, True, False])
    got = tar_at_far(scores, same, [0.1, 0.5, 1], rule="rounded")
    assert got.far.tolist() == [0, 0.5, 1]
    assert got.tar.tolist() == [0.5, 0.5, 1]
    assert got.threshold[0] > np.float32(0.8)  # in float32 the step of 1e-8 would be lost


def test_scores_that_cannot_be_ranked_are_refused():
    with pytest.raises(ValueError, match=r"scores \(3,\) and same \(2,\) do not fit"):
        roc(np.zeros(3), np.array([True, False]))
    with pytest.raises(ValueError, match="1 of 2 scores are not finite: pair 1 is the first"):
        auc(np.array([0, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="all 2 pairs are of different people"):
        roc(np.zeros(2), np.zeros(2, dtype=bool))
    with pytest.raises(ValueError, match="rule 'nearst': allowed are 'nearest' and 'rounded'"):
        tar_at_far(np.zeros(2), np.array([True, False]), [0.1], rule="nearst")
    with pytest.raises(ValueError, match="rate -1: allowed are 0 to 1"):
        tar_at_far(np.zeros(2), np.array([True, False]), [-1])
