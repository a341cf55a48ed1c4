"""benchmarks/scaling.py measures what it says, at sizes of a moment."""

import json
import sys

import pytest

from benchmarks import scaling


def test_a_simulated_shard_has_its_share_of_classes_and_sends_half_more_than_the_minimum():
    row = scaling.measure(8, 803, batch=16, dim=64, precision="fp32", repeat=1)
    assert (row["ranks"], row["local_classes"]) == (8, 101)
    vectors = 2 * 2 * 7 / 8 * 128 * 4  # own cosine and sum of exponentials of each of the 128 samples
    labels = 7 * (16 + 2) * 8
    assert row["bytes_sent"] == 1.5 * row["minimum"] + vectors + labels
    assert row["step_ms"] > 0


def test_every_part_prints_its_rows(monkeypatch, capsys):
    monkeypatch.setattr(scaling, "in_own_process", lambda function, *arguments: function(*arguments))
    arguments = "--classes 200 400 600 --batch 8 --dim 16 --repeat 1".split()
    monkeypatch.setattr(scaling, "measure_ranks", lambda num_ranks, sizes: num_ranks * 1e-3)
    monkeypatch.setattr(sys, "argv", ["scaling.py", *arguments])
    scaling.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    parts = {part: [row for row in rows if row["part"] == part] for part in scaling.PARTS}
    assert [row["ranks"] for row in parts["shards"]] == [8, 64]
    assert all(1.5 < row["of_minimum"] < 2.5 for row in parts["shards"])
    for part in ("classes", "batches"):
        *points, line = parts[part]
        assert line["points"] == len(points) >= 3
        assert 0 <= line["r_squared"] <= 1
    assert [row["ranks"] for row in parts["ranks"]] == [1, 2, 3]
    assert all(row["ns_a_logit"] > 0 for row in parts["ranks"])
    fit = {(row["card_gb"], row["kept"]): row["classes"] for row in parts["identities"]}
    assert len(fit) == 8


def test_a_line_that_fits_has_r_squared_of_one():
    assert scaling.r_squared([1, 2, 5], [3, 5, 11]) == pytest.approx(1)
    assert scaling.r_squared([1, 2, 3, 4], [1, -1, -1, 1]) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_two_ranks_share_the_classes_out_and_are_measured_together():
    assert scaling.measure_ranks(2, (200, 8, 16, "fp32", 1)) > 0
