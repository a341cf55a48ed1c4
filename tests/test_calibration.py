"""Cosines at FAR: counted by hand, the same from pairs, sets and searches, with intervals that cover."""

import numpy as np
import pytest

from eval import calibration
from eval.calibration import FARS, calibrate_pairs, calibrate_search, calibrate_set
from eval.calibration_report import as_numbers, calibration_table
from eval.metrics import normalise


def directions(count, seed=0, size=16):
    return normalise(np.random.default_rng(seed).normal(size=(count, size)))


def accepted(scores, found):
    """Shares of the scores that the thresholds accept."""
    return np.array([np.mean(scores >= cosine) for cosine in found.cosine])


def test_a_threshold_lets_in_at_most_its_share_and_the_next_lower_score_would_be_too_much():
    scores = np.random.default_rng(0).normal(size=5000)
    found = calibrate_pairs(scores)
    measurable = np.isfinite(found.cosine)
    assert measurable.tolist() == [True, True, True, False, False, False]  # 5,000 pairs: one in 5,000
    assert found.pairs == found.people == 5000
    for far, cosine in zip(FARS[:3], found.cosine):
        assert np.mean(scores >= cosine) == far
        assert cosine in scores


def test_equal_scores_come_in_all_or_none():
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0])
    for far, cosine in ((0.1, 0.9), (0.2, 0.9), (0.39, 0.9), (0.4, 0.5), (0.5, 0.5), (1, 0.0)):
        assert calibrate_pairs(scores, fars=[far]).cosine == [cosine]
    (above,) = calibrate_pairs(np.full(10, 0.5), fars=[0.1]).cosine  # a dead network: nobody is accepted
    assert 0.5 < above < 0.5 + 1e-9


def test_the_pairs_of_a_set_are_those_of_different_people_each_once():
    unit, ids = directions(40), np.arange(40) // 3
    first, second = np.triu_indices(40, 1)
    different = ids[first] != ids[second]
    scores = np.sum(unit[first] * unit[second], axis=1)[different]
    people = np.stack([ids[first], ids[second]], axis=1)[different]
    by_hand = calibrate_pairs(scores, people)
    found = calibrate_set(unit, ids)
    assert (found.pairs, found.people) == (by_hand.pairs, by_hand.people) == (len(scores), 14)
    assert np.allclose(found.cosine, by_hand.cosine, equal_nan=True)
    assert np.allclose(found.interval, by_hand.interval, equal_nan=True)


def test_a_search_compares_each_probe_with_everybody_else_and_nobody_is_a_mate():
    probes, gallery = directions(20), directions(30, seed=1)
    probe_ids, gallery_ids = np.arange(20), np.r_[np.arange(10), np.full(20, -100)]
    found = calibrate_search(probes, gallery, probe_ids, gallery_ids, fars=[0.1])
    scores = probes @ gallery.T
    scores[np.arange(10), np.arange(10)] = np.nan
    others = np.sort(scores[np.isfinite(scores)])[::-1]
    assert (found.pairs, found.people) == (590, 40)
    assert found.cosine == pytest.approx(others[58])


def test_of_very_many_pairs_the_highest_are_kept_and_the_others_stand_for_more(monkeypatch):
    unit = directions(600)
    exact = calibrate_set(unit)
    monkeypatch.setattr(calibration, "ALL_KEPT", 1000)
    monkeypatch.setattr(calibration, "HIGHEST", 20_000)
    monkeypatch.setattr(calibration, "BLOCK_BYTES", 50_000)
    thinned = calibrate_set(unit)
    assert thinned.pairs == exact.pairs == 600 * 599 // 2
    assert np.array_equal(thinned.cosine[1:], exact.cosine[1:], equal_nan=True)  # among the highest
    scores = (unit @ unit.T)[np.triu_indices(600, 1)]
    far = np.mean(scores >= thinned.cosine[0])  # half of those beyond the highest were drawn
    assert far == pytest.approx(0.1, abs=5e-4)


def test_of_very_many_pairs_equal_scores_come_in_all_or_none_too(monkeypatch):
    monkeypatch.setattr(calibration, "ALL_KEPT", 400)
    monkeypatch.setattr(calibration, "HIGHEST", 100)
    unit = directions(60)
    for alike in (30, 60):  # 435 of 1,770 pairs, then all: more than the 100 that are kept
        unit[:alike] = np.eye(16)[0]
        found = calibrate_set(unit, fars=[0.1])
        assert found.cosine == [np.nextafter(1, 2)]


def test_the_interval_is_as_wide_as_the_threshold_moves_between_draws_of_people():
    moved = [calibrate_set(directions(100, seed), fars=[0.01]) for seed in range(60)]
    cosines = np.array([found.cosine[0] for found in moved])
    half = np.mean([found.interval[0] for found in moved])
    assert 0.7 < half / (1.96 * cosines.std()) < 1.6
    few, many = (calibrate_set(directions(count), fars=[0.01]).interval[0] for count in (50, 400))
    assert few > 2 * many


def test_the_same_seed_gives_the_same_interval():
    unit = directions(50)
    assert as_numbers(calibrate_set(unit)) == as_numbers(calibrate_set(unit))
    assert calibrate_set(unit).interval[0] != calibrate_set(unit, seed=1).interval[0]


@pytest.mark.parametrize("calibrate", [calibrate_set, lambda rows: calibrate_pairs(rows[:, 0])])
def test_numbers_that_are_not_finite_give_no_threshold(calibrate):
    rows = normalise(np.random.default_rng(0).normal(size=(20, 4)))
    calibrate(rows)
    rows[3] = np.nan
    with pytest.raises(ValueError, match="scores that are not finite give no threshold"):
        calibrate(rows)


def test_nothing_to_compare_is_one_clear_line():
    for nothing in (lambda: calibrate_pairs([]), lambda: calibrate_set(directions(3), [1, 1, 1])):
        with pytest.raises(ValueError, match="there is no pair of different people"):
            nothing()


def test_the_table_says_where_pairs_are_too_few():
    text = str(calibration_table({"mine": calibrate_pairs(np.linspace(0, 1, 200))}))
    assert "FAR=1e-06" in text
    row = [cell.strip() for cell in text.splitlines()[3].strip("|").split("|")]
    assert row[:3] == ["mine", "200", "200"]
    assert row[3].startswith("0.905 ± 0.0")
    assert row[5:] == ["too few pairs"] * 4
