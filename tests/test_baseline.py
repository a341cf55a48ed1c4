"""A comparison with an earlier evaluation: exact difference, an interval that covers, other data is told."""

import json

import numpy as np
import pytest

from eval import eval_tinyface as tinyface
from eval.baseline import (
    FILE,
    Outcomes,
    compare,
    difference_table,
    outcomes_at,
    read_outcomes,
    write_outcomes,
)
from eval.report import Report
from eval.survface.protocol import evaluate_pairs, evaluate_probes


def outcomes(seed, num=400, people=80, better=0.0):
    """Right or not by how hard a probe is, which two networks agree about, and by chance."""
    hard = np.random.default_rng(0).random(num)
    luck = np.random.default_rng(seed).normal(0, 0.05, num)
    return {"rank-1": Outcomes(hard + luck < 0.7 + better, np.arange(num) % people)}


def write_evaluation(folder, found):
    report = Report("eval_x", {})
    report.keep_outcomes(found)
    report.write(folder)
    return folder / "results.json"


def test_what_is_written_is_read_with_the_file_or_its_folder(tmp_path, capsys):
    found = outcomes(1) | {"TAR @FAR=1e-04": Outcomes(np.array([True, False]), np.array([3, 4]))}
    results = write_evaluation(tmp_path / "old", found)
    for named in (results, results.parent):
        again = read_outcomes(named)
        assert again.keys() == found.keys()
        for name, (right, identity) in found.items():
            np.testing.assert_array_equal(again[name].right, right)
            np.testing.assert_array_equal(again[name].identity, identity)


def test_the_difference_is_that_of_the_rates():
    ours, theirs = outcomes(1, better=0.05), outcomes(2)
    (found,) = compare(ours, theirs).values()
    assert found.ours == ours["rank-1"].right.mean()
    assert found.theirs == theirs["rank-1"].right.mean()


def test_what_is_hard_for_both_cancels_out():
    paired = compare(outcomes(1, better=0.05), outcomes(2))["rank-1"]
    strangers = outcomes(2)["rank-1"].right[np.random.default_rng(3).permutation(400)]
    unpaired = compare(outcomes(1, better=0.05), {"rank-1": Outcomes(strangers, np.arange(400) % 80)})[
        "rank-1"
    ]
    assert paired.half_width < 0.6 * unpaired.half_width
    assert paired.ours - paired.theirs > paired.half_width


def test_networks_that_differ_by_chance_alone_rarely_differ_beyond_it():
    beyond = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        first, second = (random.random(300) < 0.8 for _ in range(2))
        found = compare(*({"x": Outcomes(right, np.arange(300))} for right in (first, second)), seed)["x"]
        beyond += abs(found.ours - found.theirs) > found.half_width
    assert beyond <= 12  # 5 expected; more than 12 happen once in 700 times


def test_the_same_evaluation_differs_by_nothing():
    (found,) = compare(outcomes(1), outcomes(1)).values()
    assert found.ours == found.theirs
    assert found.half_width == 0
    assert difference_table({"rank-1": found}).rows[0][3:] == ["+0.00 ± 0.00", "no"]


def test_other_data_and_other_protocols_are_told():
    with pytest.raises(ValueError, match=r"other data: rank-1 has 400 images or pairs here and 300 there"):
        compare(outcomes(1), outcomes(1, num=300))
    with pytest.raises(ValueError, match="another protocol or other sets: it has rank-5"):
        compare(outcomes(1), {"rank-5": outcomes(1)["rank-1"]})


def test_a_baseline_without_outcomes_is_told_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results\.json of an evaluation"):
        read_outcomes(tmp_path / "results.json")
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="evaluate that model again"):
        read_outcomes(tmp_path / "results.json")
    (tmp_path / FILE).write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match="is damaged"):
        read_outcomes(tmp_path)


def test_the_same_outcomes_make_the_same_file(tmp_path):
    for name in ("a", "b"):
        write_outcomes(tmp_path / name, outcomes(1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_report_has_the_differences_for_eyes_and_for_programs(tmp_path, capsys):
    old = write_evaluation(tmp_path / "old", outcomes(2))
    capsys.readouterr()
    report = Report("eval_x", {})
    report.keep_outcomes(outcomes(1, better=0.05))
    report.compare(compare(report.outcomes, read_outcomes(old)), old)
    report.write(tmp_path / "new")
    printed = capsys.readouterr().out
    assert f"Against {old}" in printed
    assert "beyond chance" in printed
    kept = json.loads((tmp_path / "new" / "results.json").read_text())["baseline"]
    assert set(kept["differences"]["rank-1"]) == {"ours", "theirs", "half_width"}


@pytest.mark.parametrize(("theirs", "said"), [("bf16", True), ("fp32", False)])
def test_a_baseline_of_another_precision_is_pointed_out(theirs, said, tmp_path, capsys):
    old = Report("eval_x", {"precision": theirs})
    old.keep_outcomes(outcomes(2))
    old.write(tmp_path / "old")
    report = Report("eval_x", {"precision": "fp32"})
    report.keep_outcomes(outcomes(1))
    for named in (tmp_path / "old", tmp_path / "old" / "results.json"):
        report.compare(compare(report.outcomes, read_outcomes(named)), named)
    report.write(tmp_path / "new")
    assert (capsys.readouterr().out.count("Precision: fp32 here, bf16 in the baseline") == 2) == said


def test_a_baseline_that_is_gone_by_the_end_costs_no_results(tmp_path, capsys):
    old = write_evaluation(tmp_path / "old", outcomes(2))
    theirs = read_outcomes(old)
    (tmp_path / "old" / "results.json").unlink()
    report = Report("eval_x", {"precision": "fp32"})
    report.keep_outcomes(outcomes(1))
    report.compare(compare(report.outcomes, theirs), old)
    report.write(tmp_path / "new")
    assert "Precision:" not in capsys.readouterr().out
    assert (tmp_path / "new" / "results.json").is_file()


def test_each_rate_has_its_row():
    found = outcomes_at(["a", "b"], np.array([[True, False], [True, True]]), np.array([0, 1]))
    assert {name: outcome.right.mean() for name, outcome in found.items()} == {"a": 0.5, "b": 1.0}


def test_a_rate_is_the_mean_of_its_outcomes():
    rng = np.random.default_rng(4)
    people = np.repeat(np.arange(30), 4)
    unit = rng.normal(size=(30, 8))[people] + rng.normal(size=(120, 8))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    first, second = rng.integers(120, size=(2, 3000))
    second[:300] = first[:300] // 4 * 4 + rng.integers(4, size=300)
    same = people[first] == people[second]
    pairs = evaluate_pairs(unit[first], unit[second], same, np.stack([people[first], people[second]], axis=1))
    probes = evaluate_probes(unit[0:80:4], unit[1:80:4], unit[80:], people[0:80:4], people[1:80:4])
    closed = tinyface.evaluate(unit[1::4], unit[0::4], people[1::4], people[0::4])
    for outcomes, rates in (
        (pairs.outcomes, pairs.tpr),
        (probes.outcomes, [*probes.rate, *probes.tpir]),
        (closed.outcomes, closed.rate),
    ):
        np.testing.assert_allclose([found.right.mean() for found in outcomes.values()], rates)
    assert 0 < pairs.tpr[-1] < 1
    assert 0 < closed.rate[0] < 1
