"""Open-set identification in two galleries: means, strictness and intervals worked out by hand."""

import numpy as np
import pytest

from eval.bootstrap import bootstrap_mean
from eval.metrics import CURVE_FPIRS, Search
from eval.open_set import open_set, open_set_curve


def searches() -> tuple[list[Search], np.ndarray]:
    """Six probes of four people: the first gallery knows 1 and 2, the second 3 and 4; three probes each."""
    nobody = -np.inf
    first = Search(
        mate_score=np.array([0.9, 0.5, 0.7, nobody, nobody, nobody]),
        mate_rank=np.array([1, 1, 2, 5, 5, 5]),
        top_other=np.array([0.1, 0.1, 0.8, 0.5, 0.4, 0.3]),  # of the unknown ones .5 is the highest
    )
    second = Search(
        mate_score=np.array([nobody, nobody, nobody, 0.8, 0.8, 0.2]),
        mate_rank=np.array([5, 5, 5, 1, 1, 1]),
        top_other=np.array([0.6, 0.1, 0.2, 0.1, 0.1, 0.1]),
    )
    return [first, second], np.array([1, 1, 2, 3, 3, 4])


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("truncate", ([True, True, False], [True, True, False])),  # .5 meets the threshold .5
        ("ijb", ([True, False, False], [True, True, False])),  # and is not above it
    ],
)
def test_rates_are_means_over_the_galleries_with_an_interval_over_people(rule, found):
    galleries, people = searches()
    at = open_set(galleries, people, np.array([1 / 3]), rule, seed=3)  # one of three may pass
    assert at.tpir == pytest.approx([np.mean(found)])
    assert at.fpir == pytest.approx([1 / 3 if rule == "truncate" else 0])
    halves = [bootstrap_mean(hits, who, seed=3) for hits, who in zip(found, (people[:3], people[3:]))]
    assert at.interval == pytest.approx([np.hypot(*halves) / 2])


def test_a_rate_needs_probes_that_a_gallery_does_not_know():
    galleries, people = searches()  # each does not know three
    assert open_set(galleries, people, np.array([0.3, 0.34]), "truncate").enough.tolist() == [False, True]


def test_an_open_set_curve_is_the_mean_over_the_galleries():
    # Ten strangers score .01 to .10; of the mates that come first all, or half, score above all of them.
    strangers = np.arange(1, 11) / 100
    top, rank = np.append(np.zeros(4), strangers), np.array([1, 1, 1, 2] + [1] * 10)
    good = Search(np.append([0.5, 0.5, 0.5, 0.5], np.full(10, -np.inf)), rank, top)
    bad = Search(np.append([0.5, 0.5, 0.045, 0.5], np.full(10, -np.inf)), rank, top)
    fpir, tpir = open_set_curve([good, bad], rule="round")
    assert fpir == pytest.approx(np.round(10 * CURVE_FPIRS) / 10)
    assert tpir == pytest.approx(np.where(fpir > 0.65, 3 / 4, (3 / 4 + 2 / 4) / 2))
