"""Templates: the switches of the IJB evaluators, aggregation in any order, scores of pairs."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.metrics import auc, normalise, tar_at_far
from eval.templates import CHUNK_PAIRS, fuse, join_views, pair_scores, template_features

GOLDENS = Path(__file__).parent / "goldens"
FARS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]


@pytest.fixture(scope="module")
def ijb():
    return np.load(GOLDENS / "ijb_11.npz")


def templates_of(ijb, setting):
    """Template ids and features for a setting like "F1N0D1"."""
    flip_sum, keep_norm, detector = (digit == "1" for digit in setting[1::2])
    plain, flip = np.split(ijb["features"], 2, axis=1)
    score = ijb["faceness"] if detector else None
    fused = fuse(plain, flip, score, flip_sum=flip_sum, keep_norm=keep_norm)
    return template_features(fused, ijb["templates"], ijb["medias"])


def test_template_features_and_scores_are_those_of_insightface(ijb):
    ids, features = templates_of(ijb, "F1N1D1")
    assert np.array_equal(ids, ijb["unique_templates"])
    assert np.abs(features - ijb["template_features"]).max() < 1e-6
    first, second = np.searchsorted(ids, ijb["p1"]), np.searchsorted(ids, ijb["p2"])
    assert np.abs(pair_scores(features, first, second) - ijb["scores"]).max() < 1e-6


@pytest.mark.parametrize("setting", [f"F{f}N{n}D{d}" for f in (0, 1) for n in (0, 1) for d in (0, 1)])
def test_each_setting_gives_the_rates_that_insightface_prints(ijb, setting):
    expected = json.loads((GOLDENS / "ijb_11.json").read_text())[setting]
    ids, features = templates_of(ijb, setting)
    scores = pair_scores(features, np.searchsorted(ids, ijb["p1"]), np.searchsorted(ids, ijb["p2"]))
    tar = tar_at_far(scores, ijb["label"], FARS).tar
    assert [f"{100 * rate:.2f}" for rate in tar] == [f"{rate:.2f}" for rate in expected["tar"]]
    assert auc(scores, ijb["label"]) == pytest.approx(expected["auc"], abs=1e-12)


@pytest.mark.parametrize("fusion", ["pre_norm_vector_add", "norm_weighted_avg", "average", "concat"])
def test_views_are_joined_in_the_four_ways_of_adaface(fusion):
    golden = np.load(GOLDENS / "flip_fusion.npz")
    plain, flip = golden["unit"] * golden["norms"]
    expected = golden[fusion] * golden[f"{fusion}_norm"]
    assert np.allclose(join_views(plain, flip, fusion), expected, atol=2e-6)
    assert np.array_equal(fuse(plain, flip, fusion=fusion), join_views(plain, flip, fusion))


def test_an_unknown_fusion_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="fusion 'sum': allowed are 'pre_norm_vector_add'"):
        join_views(np.ones((1, 2)), np.ones((1, 2)), "sum")


def test_switches_multiply_divide_and_leave_their_inputs_alone():
    plain, flip = np.array([[3.0, 4.0], [0, 0]]), np.array([[3.0, -4.0], [0, 0]])
    score = np.array([0.5, 1])
    assert fuse(plain, flip, flip_sum=False, keep_norm=False).tolist() == [[0.6, 0.8], [0, 0]]
    assert fuse(plain, flip, score, keep_norm=False).tolist() == [[0.5, 0], [0, 0]]
    assert fuse(plain, flip, score, flip_sum=False).tolist() == [[1.5, 2], [0, 0]]
    assert plain.tolist() == [[3, 4], [0, 0]]


def random_images(random, num_images=500):
    """Features, template ids and media ids; some medias of one image, some shared by templates."""
    features = random.standard_normal((num_images, 8)).astype(np.float32)
    return features, random.choice([7, -2, 40, 1000, 3], num_images), random.integers(0, 60, num_images)


def test_a_template_is_the_sum_over_medias_of_the_mean_of_a_media():
    features, templates, medias = random_images(np.random.default_rng(0))
    ids, got = template_features(features, templates, medias)
    assert ids.tolist() == [-2, 3, 7, 40, 1000]
    for row, template in zip(got, ids):
        of_template = templates == template
        means = [
            features[of_template & (medias == media)].astype(np.float64).mean(axis=0)
            for media in set(medias[of_template])
        ]
        assert np.allclose(row, normalise(np.sum(means, axis=0)[None])[0], atol=1e-6)


def test_the_order_of_the_images_does_not_matter():
    random = np.random.default_rng(1)
    features, templates, medias = random_images(random)
    expected = template_features(features, templates, medias)
    order = random.permutation(len(features))
    ids, got = template_features(features[order], templates[order], medias[order])
    assert np.array_equal(ids, expected[0])
    assert np.allclose(got, expected[1], atol=1e-6)


def test_a_media_of_one_number_in_two_templates_is_two_medias():
    features = np.array([[1.0, 0], [0, 1], [0, 1]])
    ids, got = template_features(features, np.array([1, 2, 2]), np.array([5, 5, 6]))
    assert ids.tolist() == [1, 2]
    assert np.allclose(got, [[1, 0], [0, 1]])


def test_images_that_cancel_out_give_a_template_of_zeros():
    _, got = template_features(np.array([[1.0, 0], [-1, 0]]), np.array([1, 1]), np.array([1, 2]))
    assert got.tolist() == [[0, 0]]


def test_ids_that_do_not_fit_the_features_are_refused():
    with pytest.raises(ValueError, match=r"template_ids \(2,\) and media_ids \(3,\) do not fit"):
        template_features(np.ones((3, 2)), np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("num_pairs", [0, 1, CHUNK_PAIRS, 3 * CHUNK_PAIRS + 5])
def test_pair_scores_are_inner_products_whatever_the_number_of_pairs(num_pairs):
    random = np.random.default_rng(2)
    templates = random.standard_normal((20, 6))
    first, second = random.integers(0, 20, (2, num_pairs))
    expected = [templates[a] @ templates[b] for a, b in zip(first, second)]
    assert np.allclose(pair_scores(templates, first, second), expected)
