"""Bootstrap intervals: reproducible, and as wide as the numbers really vary when other people are drawn."""

import numpy as np
import pytest

from eval import bootstrap
from eval.bootstrap import bootstrap_mean, bootstrap_tar, half_width
from eval.metrics import tar_at_far

NUM_PEOPLE = 40


def draw_pairs(random, num_people=NUM_PEOPLE):
    """Three images a person, of a quality of its own; all pairs, their truth, whose they are."""
    centre = random.standard_normal((num_people, 8))
    noise = random.gamma(2, 0.35, (num_people, 1, 1)) * random.standard_normal((num_people, 3, 8))
    images = (centre[:, None] + noise).reshape(-1, 8)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    first, second = np.triu_indices(len(images), k=1)
    identity = np.stack([first, second], axis=1) // 3
    return np.sum(images[first] * images[second], axis=1), identity[:, 0] == identity[:, 1], identity


@pytest.fixture(scope="module")
def pairs():
    return draw_pairs(np.random.default_rng(0))


def test_one_seed_gives_one_interval(pairs):
    again, other = (bootstrap_tar(*pairs, fars=[0.01, 0.1], seed=seed, resamples=50) for seed in (5, 6))
    assert np.array_equal(bootstrap_tar(*pairs, fars=[0.01, 0.1], seed=5, resamples=50), again)
    assert not np.array_equal(again, other)
    values, identity = np.arange(40) % 3, np.arange(40) // 4
    assert bootstrap_mean(values, identity, seed=5) == bootstrap_mean(values, identity, seed=5)


def test_the_mean_of_independent_values_has_the_textbook_interval():
    values = np.random.default_rng(1).random(400) < 0.3
    expected = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 400)
    assert bootstrap_mean(values, np.arange(400), resamples=4000) == pytest.approx(expected, rel=0.08)


def test_ten_copies_of_each_value_are_no_more_evidence_than_one():
    values = np.random.default_rng(2).random(100)
    once = bootstrap_mean(values, np.arange(100))
    assert bootstrap_mean(values.repeat(10), np.arange(100).repeat(10)) == pytest.approx(once, rel=1e-9)


def test_the_names_of_the_identities_do_not_matter_only_their_order(pairs):
    scores, same, identity = pairs
    expected = bootstrap_tar(scores, same, identity, fars=[0.1], resamples=20)
    assert np.array_equal(bootstrap_tar(scores, same, 7 * identity - 50, fars=[0.1], resamples=20), expected)


def test_the_interval_of_tar_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(3)
    fars = [0.01, 0.1]
    truth = np.mean([tar_at_far(*draw_pairs(random)[:2], fars).tar for _ in range(100)], axis=0)
    covered = []
    for _ in range(50):
        scores, same, identity = draw_pairs(random)
        half = bootstrap_tar(scores, same, identity, fars=fars, resamples=60)
        covered.append(np.abs(tar_at_far(scores, same, fars).tar - truth) <= half)
    assert (np.mean(covered, axis=0) >= 0.85).all()
    assert np.mean(covered) <= 0.995


@pytest.mark.parametrize("num_people", [6, 12])
def test_few_people_get_the_interval_of_a_plain_loop_over_weighted_rocs(num_people):
    scores, same, identity = draw_pairs(np.random.default_rng(1), num_people)
    fars = np.array([0.01, 0.1, 0.3])
    accepted = scores >= np.append(np.inf, np.unique(scores)[::-1])[:, None]  # (T, P)
    random, rates = np.random.default_rng(0), []
    for _ in range(200):
        drawn = np.bincount(random.integers(num_people, size=num_people), minlength=num_people)
        weight = np.where(same, drawn[identity[:, 0]], drawn[identity].prod(axis=1))
        far, tar = ((accepted & kind) @ weight / weight[kind].sum() for kind in (~same, same))
        distance = np.abs(far - fars[:, None]).round(12)  # (F, T)
        rates.append([tar[row == row.min()].max() for row in distance])
    assert np.allclose(
        bootstrap_tar(scores, same, identity, fars=fars, resamples=200), half_width(np.array(rates))
    )


def test_pairs_drawn_one_by_one_would_promise_too_much(pairs):
    scores, same, _ = pairs
    pair = np.arange(len(scores))
    apart = np.stack([pair, pair], axis=1)  # each pair a person of its own
    by_pair = bootstrap_tar(scores, same, apart, fars=[0.1], resamples=100)
    assert by_pair < 0.8 * bootstrap_tar(*pairs, fars=[0.1], resamples=100)


def test_thinning_the_low_scores_hardly_moves_the_interval(pairs, monkeypatch):
    fars = [0.01, 0.1, 0.5]
    exact = bootstrap_tar(*pairs, fars=fars, resamples=300)
    monkeypatch.setattr(bootstrap, "EXACT", 1000)
    monkeypatch.setattr(bootstrap, "SAMPLED", 3000)
    assert bootstrap_tar(*pairs, fars=fars, resamples=300) == pytest.approx(exact, rel=0.1)


def test_a_perfect_network_has_no_interval():
    identity = np.array([[0, 0], [1, 1], [2, 2], [0, 1], [1, 2], [0, 2]])
    same = identity[:, 0] == identity[:, 1]
    assert bootstrap_tar(same.astype(float), same, identity, fars=[0, 0.1]).tolist() == [0, 0]
    assert bootstrap_mean(np.ones(9), np.arange(9) // 2) == 0


def test_what_does_not_fit_is_refused():
    same = np.array([True, False])
    with pytest.raises(ValueError, match="pair 0 is of the same person, but of identities"):
        bootstrap_tar(np.zeros(2), same, np.array([[1, 2], [1, 2]]), fars=[0.1])
    with pytest.raises(ValueError, match=r"identity \(2,\) do not fit"):
        bootstrap_tar(np.zeros(2), same, np.zeros(2), fars=[0.1])
    with pytest.raises(ValueError, match="all 2 pairs are of one kind"):
        bootstrap_tar(np.zeros(2), ~np.zeros(2, dtype=bool), np.zeros((2, 2)), fars=[0.1])
    with pytest.raises(ValueError, match=r"values \(2,\) and identity \(3,\) do not fit"):
        bootstrap_mean(np.zeros(2), np.zeros(3))
