"""benchmarks/evaluation.py: its parts run, both ways agree, and a missed limit is flagged."""

import sys

import numpy as np
import pytest

from benchmarks import evaluation
from benchmarks.evaluation import LIMITS, PARTS, check_equal, run_part


@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs_and_its_ways_agree(part):
    measured = [run_part(part, method, scale=500) for method in PARTS[part][1]]
    check_equal(part, [m["result"] for m in measured])
    for m in measured:
        assert m["seconds"] >= 0
        assert m["peak_gib"] > 0
        assert np.isfinite(m["result"]).all()


def run_main(monkeypatch, *parts, **of_ours):
    """The script with measurements made up: the plain way takes 10 s and 9 GiB."""

    def measure(function, name, method, scale, repeat, timeout_s):
        plain = {"seconds": 10.0, "cpu": 10.0, "peak_gib": 9.0, "result": np.zeros(1)}
        return plain if method == "plain" else plain | of_ours

    monkeypatch.setattr(evaluation, "in_own_process", measure)
    monkeypatch.setattr(sys, "argv", ["evaluation.py", "--only", *parts])
    evaluation.main()


def test_limits_that_are_met_are_no_error(monkeypatch, capsys):
    assert LIMITS.keys() == PARTS.keys()
    run_main(monkeypatch, "templates", "survface", seconds=5.0, peak_gib=6.0)
    assert "MISSED" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "of_ours", "missed"),
    [
        ("templates", {"seconds": 5.1, "peak_gib": 1.0}, "seconds_ratio 0.51 > 0.5"),
        ("kfold", {"seconds": 0.3, "peak_gib": 1.0}, "seconds 0.3 > 0.2"),
        ("tinyface", {"seconds": 900.0, "peak_gib": 4.5}, "peak_gib 4.5 > 4"),
    ],
)
def test_a_missed_limit_is_marked_in_the_table_and_ends_with_an_error(
    monkeypatch, capsys, part, of_ours, missed
):
    with pytest.raises(ValueError, match=f"missed: {part} {missed}"):
        run_main(monkeypatch, "bootstrap", part, **of_ours)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "MISSED" in line and line[0] == "|")
    assert f" {part} " in line
    assert missed in line
