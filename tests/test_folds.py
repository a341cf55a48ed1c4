"""The counts of the ten-fold protocol, against plain loops, scikit-learn and SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from sklearn.model_selection import KFold

from eval.folds import count_accepted, fold_of_each, ratio, threshold_at_far

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


def test_a_ratio_to_nothing_is_what_was_asked_for():
    assert ratio(np.array([1, 0]), np.array([4, 0]), if_empty=7).tolist() == [0.25, 7]
