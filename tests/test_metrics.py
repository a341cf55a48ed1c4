"""The rates behind every protocol, against plain loops and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from eval.metrics import SortedScores, auc, check_unit, normalise, roc, tar_at_far


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


@settings(max_examples=60)
@given(pairs, st.sampled_from(["nearest", "rounded"]))
def test_scores_that_are_sorted_once_say_what_each_function_says(items, rule):
    scores, same = (np.array(column) for column in zip(*items))
    ascending = SortedScores(scores, same)
    assert ascending.auc == auc(scores, same)
    for got, expected in zip(ascending.roc, roc(scores, same), strict=True):
        assert np.array_equal(got, expected)
    fars = [0, 0.1, 1 / 3, 1]
    for got, expected in zip(ascending.tar_at_far(fars, rule), tar_at_far(scores, same, fars, rule)):
        assert np.array_equal(got, expected)


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
