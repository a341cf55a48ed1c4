"""Correlation of norm and quality: by hand, as SciPy's, deaf to float noise, with an interval that covers."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from eval.robustness.curves import correlation_between, correlation_within, robustness_curve


def within(norms, per_pair=1) -> float:
    """ρ alone, without its interval."""
    return correlation_within(np.asarray(norms, dtype=float), np.arange(len(norms[0])) // per_pair).rho


def test_the_correlation_is_one_where_every_norm_falls_and_minus_one_where_every_norm_grows():
    falling = np.array([[9, 5], [7, 4.9], [1, 0]])
    assert within(falling) == pytest.approx(1)
    assert within(falling[::-1]) == pytest.approx(-1)
    assert within(np.stack([falling[:, 0], falling[::-1, 0]], axis=1)) == pytest.approx(0)
    assert within(np.array([[3], [1], [2]])) == pytest.approx(0.5)  # 1 - 6 (0 + 1 + 1) / (3 · 8)


def test_a_norm_that_never_changes_counts_as_zero():
    assert within(np.ones((4, 3))) == within(np.zeros((4, 3))) == 0
    assert within(np.array([[1, 2], [1, 1]])) == pytest.approx(0.5)
    assert correlation_between([np.ones(4), np.ones(6)]) == (0, 0)


@pytest.mark.parametrize("norm", [1, 17.3, 1e-3])
@pytest.mark.parametrize("num_amounts", [2, 5])
def test_what_rounding_does_to_features_of_one_length_is_no_correlation(norm, num_amounts):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((num_amounts, 2, 200, 512)).astype(np.float32)
    features *= np.float32(norm) / np.linalg.norm(features, axis=-1, keepdims=True)
    curve = robustness_curve(range(num_amounts), list(features), np.arange(100) % 2 == 0)
    assert np.ptp(curve.norms) > 0
    assert curve.correlation == (0, 0)
    assert correlation_between([curve.norms[0], curve.norms[1]]) == (0, 0)


def test_norms_count_where_they_differ_by_a_thousandth():
    norms = 17.3 * np.array([[1], [0.999], [0.998]])
    assert within(norms) == pytest.approx(1)
    assert within(norms[::-1]) == pytest.approx(-1)


def test_correlations_are_those_of_scipy_ties_included():
    rng = np.random.default_rng(0)
    norms = rng.integers(1, 5, (6, 30)).astype(float)
    expected = [spearmanr(own, -np.arange(6)).statistic for own in norms.T]
    assert within(norms) == pytest.approx(np.mean(expected))
    sets = [rng.integers(90, 110, size) / 5 for size in (50, 70, 30)]
    place = np.repeat([3, 2, 1], [50, 70, 30])
    expected = spearmanr(np.concatenate(sets), place).statistic
    assert correlation_between(sets).rho == pytest.approx(expected)
    better = [sets[0] + 5, sets[1]]
    assert correlation_between(better).rho > 0 > correlation_between(better[::-1]).rho


def test_the_interval_is_that_of_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    norms = rng.normal(10, 1, (3, 2000))
    each = np.array([spearmanr(own, -np.arange(3)).statistic for own in norms.T])
    rho, half_width = correlation_within(norms, np.arange(2000))
    assert half_width == pytest.approx(1.96 * each.std() / 2000**0.5, rel=0.1)
    # Both images of a pair alike are no more to go by than one.
    twice = correlation_within(np.repeat(norms, 2, axis=1), np.arange(4000) // 2)
    assert twice == pytest.approx((rho, half_width))
    assert correlation_within(norms, np.arange(2000), seed=1).half_width != half_width


def test_the_interval_between_sets_covers_the_truth_nineteen_times_of_twenty():
    rng = np.random.default_rng(0)
    found = [correlation_between(rng.normal(20, 2, (2, 60)), resamples=200) for _ in range(100)]
    assert 90 <= sum(abs(rho) <= half_width for rho, half_width in found) <= 99
