"""Identification: ranks and open-set rates against goldens, brute force and numbers found by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eval.identification import legacy_tpir, search
from eval.metrics import Search, cmc, dir_at_far, normalise

GOLDENS = Path(__file__).parent / "goldens"


def brute_force(probes, gallery, probe_ids, gallery_ids):
    """The definition of `Search`, from the whole matrix."""
    scores, mates = probes @ gallery.T, probe_ids[:, None] == gallery_ids
    mate_score = np.where(mates, scores, -np.inf).max(axis=1)
    others = np.where(mates, -np.inf, scores)
    return Search(mate_score, 1 + (others >= mate_score[:, None]).sum(axis=1), others.max(axis=1))


def assert_same(got, expected):
    for name, a, b in zip(Search._fields, got, expected):
        assert np.array_equal(a, b), name


# A few values only, so that ties abound; sums of products of these are exact.
@settings(max_examples=40)
@given(
    arrays(np.float32, (7, 2), elements=st.sampled_from([-1, 0, 0.5])),
    arrays(np.float32, (9, 2), elements=st.sampled_from([-1, 0, 0.5])),
    arrays(np.int64, 7, elements=st.integers(-1, 4)),
    arrays(np.int64, 9, elements=st.integers(0, 5)),
    st.integers(1, 8),
)
def test_search_in_chunks_is_brute_force(probes, gallery, probe_ids, gallery_ids, chunk):
    got = search(probes, gallery, probe_ids, gallery_ids, chunk=chunk)
    assert_same(got, brute_force(probes, gallery, probe_ids, gallery_ids))
    assert np.array_equal(got.mated, np.isin(probe_ids, gallery_ids))


def test_a_tie_goes_against_the_probe():
    gallery = np.array([[1.0, 0], [0, 1]])
    found = search(np.array([[0.6, 0.6]]), gallery, np.array([1]), np.array([1, 2]))
    assert found.mate_rank.tolist() == [2]
    assert found.mate_score.tolist() == found.top_other.tolist() == [0.6]


@pytest.mark.parametrize("feature", ["zero", "constant"])
def test_a_dead_network_identifies_nobody(feature):
    row = np.random.default_rng(0).standard_normal((1, 100)) if feature == "constant" else np.zeros((1, 100))
    row = normalise(row).astype(np.float32)
    ids = np.arange(203)
    found = search(row.repeat(101, axis=0), row.repeat(203, axis=0), ids[:101], ids, chunk=10)
    assert cmc(found, [1]) == 0
    assert dir_at_far(found, found.top_other, [0.5], [1], rule="ijb").dir == 0


def test_perfect_features_identify_everybody():
    people = np.eye(12, dtype=np.float32)
    found = search(people, np.concatenate([people, people]), np.arange(12), np.tile(np.arange(12), 2))
    assert cmc(found, [1, 5]).tolist() == [1, 1]
    assert found.mate_score.tolist() == [1] * 12
    assert found.top_other.tolist() == [0] * 12


def test_a_gallery_of_one_person_leaves_no_others():
    found = search(np.eye(2), np.eye(2), np.array([3, 4]), np.array([3, 3]))
    assert found.top_other.tolist() == [-np.inf, 1]
    assert found.mate_rank.tolist() == [1, 3]  # without a mate: behind everyone


def test_closed_set_ranks_are_those_of_tinyface():
    golden = np.load(GOLDENS / "dir_far.npz")
    found = search(golden["probe"], golden["gallery"], golden["probe_labels"], golden["gallery_labels"])
    assert np.allclose(cmc(found, [1, 5, 20]), golden["closed_rank_1_5_20"], atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_open_set_rates_are_the_recorded_ones(dtype):
    golden = np.load(GOLDENS / "dir_far.npz")
    probes, gallery = golden["probe"].astype(dtype), golden["open_gallery"].astype(dtype)
    found = search(probes, gallery, golden["probe_labels"], golden["open_gallery_labels"])
    strangers = found.top_other[~found.mated]
    got = dir_at_far(found, strangers, golden["open_fars"], golden["open_ranks"], rule="round")
    assert np.allclose(got.dir, golden["open_dir"], atol=1e-7)
    assert np.allclose(got.threshold, golden["open_threshold"], atol=1e-6)
    assert np.allclose(got.far, golden["open_real_far"], atol=1e-7)


def test_legacy_rates_are_those_of_ijb_1n():
    golden = np.load(GOLDENS / "ijb_1n.npz")
    given_arrays = [golden[name] for name in ("query", "gallery", "query_ids", "gallery_ids")]
    got = legacy_tpir(*given_arrays, golden["far"], chunk=37)
    assert np.allclose(got.tpir, golden["tpir"], atol=1e-12)
    assert np.allclose(got.threshold, golden["threshold"], atol=1e-9)
    ranks = cmc(search(*given_arrays), [1, 5, 10])
    assert np.allclose(ranks, [golden["rank1"], golden["rank5"], golden["rank10"]], atol=1e-12)


@pytest.mark.parametrize("decimals", [1, 9])  # with ties and without
def test_legacy_thresholds_are_those_of_all_pairs_at_once(decimals):
    random = np.random.default_rng(3)
    probes, gallery = np.round(random.standard_normal((2, 300, 4)), decimals)
    ids = random.permutation(300)
    scores = probes @ gallery.T
    others = np.sort(scores[ids[:, None] != np.arange(300)])[::-1]
    for chunk in (1, 7, 300):
        got = legacy_tpir(probes, gallery, ids, np.arange(300), [0.1, 0.101, 1], chunk=chunk)
        assert np.allclose(got.threshold, others[[29, 30, 299]], atol=1e-12)  # 30.3 is rounded up


@pytest.mark.parametrize(("gallery_ids", "number"), [([1, 3, 4], 0), ([1, 2, 2], 2)])
def test_legacy_refuses_a_probe_without_exactly_one_mate(gallery_ids, number):
    with pytest.raises(ValueError, match=f"probe 1 of identity 2 has {number} gallery entries"):
        legacy_tpir(np.eye(3), np.eye(3), np.array([1, 2, 1]), np.array(gallery_ids), [0.5])


# Five mated probes and ten unmated ones whose best scores are .0 to .9; two mates tie with a threshold.
MATED = Search(
    mate_score=np.array([0.95, 0.9, 0.85, 0.8, 0.2]),
    mate_rank=np.array([1, 1, 2, 1, 9]),
    top_other=np.array([0.1, 0.2, 0.9, 0.3, 0.9]),
)
UNMATED_TOP = np.arange(10) / 10


@pytest.mark.parametrize(
    ("rule", "far", "threshold", "real_far", "rank_1", "rank_2"),
    [
        ("round", 0.04, 0.9 + 1e-5, 0, 0.2, 0.2),
        ("round", 0.15, 0.8, 0.2, 0.6, 0.8),  # round(1.5) = 2
        ("round", 0.25, 0.8, 0.2, 0.6, 0.8),  # round(2.5) = 2, half to even
        ("truncate", 0.09, 0.9 + 1e-8, 0, 0.2, 0.2),
        ("truncate", 0.19, 0.9, 0.1, 0.4, 0.4),
        ("truncate", 0.2, 0.8, 0.2, 0.6, 0.8),
        ("ijb", 0.01, 0.9, 0, 0.2, 0.2),  # at least the first; strictly above
        ("ijb", 0.29, 0.8, 0.1, 0.4, 0.6),
        ("ijb", 1, 0.0, 0.9, 0.6, 0.8),
    ],
)
def test_each_rule_has_its_own_threshold_and_strictness(rule, far, threshold, real_far, rank_1, rank_2):
    got = dir_at_far(MATED, UNMATED_TOP, [far], [1, 2], rule=rule)
    assert got.threshold.tolist() == [threshold]
    assert got.far.tolist() == pytest.approx([real_far])
    assert got.dir[0].tolist() == pytest.approx([rank_1, rank_2])


def test_unmated_probes_do_not_count_among_the_mated():
    with_stranger = Search(*(np.append(a, b) for a, b in zip(MATED, (-np.inf, 21, 0.99))))
    assert cmc(with_stranger, [1, 2, 9]).tolist() == cmc(MATED, [1, 2, 9]).tolist() == [0.6, 0.8, 1]
    got, expected = (dir_at_far(s, UNMATED_TOP, [0.1, 0.3], [1, 2]) for s in (with_stranger, MATED))
    assert np.array_equal(got.dir, expected.dir)


def test_what_cannot_be_scored_is_reported():
    nobody = Search(np.array([-np.inf]), np.array([4]), np.array([0.5]))
    with pytest.raises(ValueError, match="no probe has a mate"):
        cmc(nobody, [1])
    with pytest.raises(ValueError, match="no unmated probe"):
        dir_at_far(MATED, np.array([]), [0.1], [1])
    with pytest.raises(ValueError, match="rule 'floor': allowed are 'round', 'truncate' and 'ijb'"):
        dir_at_far(MATED, UNMATED_TOP, [0.1], [1], rule="floor")
    with pytest.raises(ValueError, match="rate 10: allowed are 0 to 1"):
        dir_at_far(MATED, UNMATED_TOP, [10], [1])
    with pytest.raises(ValueError, match="the gallery is empty"):
        search(np.eye(2), np.empty((0, 2)), np.arange(2), np.arange(0))
    with pytest.raises(ValueError, match=r"gallery \(3, 3\) with ids \(3,\) do not fit"):
        search(np.eye(2), np.eye(3), np.arange(2), np.arange(3))


def test_a_feature_that_is_not_a_number_is_reported():
    broken = np.eye(3)
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="the feature of gallery entry 1 is not finite"):
        search(np.eye(3), broken, np.arange(3), np.arange(3))
    with pytest.raises(ValueError, match="the feature of probe 1 is not finite"):
        legacy_tpir(broken, np.eye(3), np.arange(3), np.arange(3), [0.5])


@pytest.mark.parametrize("shape", [(1, 2), (7, 33), (60, 129)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_dead_network_finds_nobody_whatever_the_sizes(shape, dtype):
    rng = np.random.default_rng(0)
    one = normalise(rng.normal(size=(1, 512))).astype(dtype)
    ids = np.arange(shape[1])
    found = search(np.repeat(one, shape[0], axis=0), np.repeat(one, shape[1], axis=0), ids[: shape[0]], ids)
    assert (found.mate_rank == shape[1]).all()
    assert found.mate_score == pytest.approx(np.ones(shape[0]), abs=1e-5)
