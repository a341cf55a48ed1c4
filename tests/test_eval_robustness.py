"""Robustness: curves and correlations worked out by hand, pairs of sets and folders, the script."""

import json
import sys
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from evaluation_runs import ROOT, run, save_small_model
from scipy.stats import spearmanr

from backbones import load_backbone
from eval import eval_robustness
from eval.bin_format import load_bin, save_bin
from eval.eval_robustness import accuracy_table, marked, measure, names_of, warnings
from eval.features import extract
from eval.metrics import normalise
from eval.pairs import read_pairs
from eval.perturbations import PERTURBATIONS
from eval.robustness import Correlation, Curve, correlation_between, correlation_within, robustness_curve
from eval.robustness_pictures import norm_figure, robustness_figure
from eval.verification import score

NUM_PAIRS = 20
SAME = np.arange(NUM_PAIRS) % 2 == 0


def encoded_pairs(seed: int, num_pairs: int = NUM_PAIRS) -> list[bytes]:
    """Faces of a kind: patches of colour, of which the two images of a pair that is the same share most."""
    rng = np.random.default_rng(seed)
    images = []
    for pair in range(num_pairs):
        first = rng.integers(0, 256, (7, 7, 3))
        second = first + rng.normal(0, 25, first.shape) if pair % 2 == 0 else rng.integers(0, 256, (7, 7, 3))
        for patches in (first, second.clip(0, 255)):
            image = cv2.resize(patches.astype(np.uint8), (112, 112), interpolation=cv2.INTER_NEAREST)
            images.append(cv2.imencode(".png", image)[1].tobytes())
    return images


@pytest.fixture(scope="module")
def bins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bins")
    for seed, name in enumerate(("good", "bad")):
        save_bin(folder / f"{name}.bin", encoded_pairs(seed), SAME)
    return folder


def patch_means(faces: np.ndarray) -> np.ndarray:
    """A hand-made network: the mean colours of 7x7 patches, `(N, 147)`; knows where everything was."""
    blocks = faces.reshape(len(faces), 7, 16, 7, 16, 3).mean(axis=(2, 4))
    return (blocks.reshape(len(faces), -1) - 127.5).astype(np.float32)


def sharpness(faces: np.ndarray) -> np.ndarray:
    """How much neighbours differ, `(N, 1)`."""
    return np.abs(np.diff(faces.astype(float), axis=2)).mean(axis=(1, 2, 3))[:, None]


def stub_run(*networks, one_side=False):
    """What `measure` needs of a run, with functions for networks and the calls they got."""
    calls = []

    def features(faces, model=0):
        calls.append((model, faces))
        return networks[model](faces), networks[model](faces[:, :, ::-1])

    return SimpleNamespace(args=Namespace(one_side=one_side, seed=0), features=features, calls=calls)


# ------------------------------------------------------------------------------------------- norm and quality


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


def test_only_a_correlation_that_is_below_zero_for_certain_is_marked():
    assert marked(Correlation(-0.21, 0.2)) == "-0.21 ± 0.20 !"
    assert marked(Correlation(-0.2, 0.21)) == "-0.20 ± 0.21"
    assert marked(Correlation(0.63, 0.1)) == "+0.63 ± 0.10"
    assert marked(Correlation(-1.0, 0.0)) == "-1.00 ± 0.00 !"


# ------------------------------------------------------------------------------------------------- the curves


def pairs_at(same_degrees, other_degrees, norm=1.0):
    """Features of both views, `(2, 2P, 2)`: the two of each pair so many degrees apart."""
    angle = np.radians(np.where(SAME, same_degrees, other_degrees))
    features = np.zeros((2 * NUM_PAIRS, 2))
    features[0::2, 0] = norm
    features[1::2] = norm * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.stack([features, features]).astype(np.float32)


def test_a_curve_is_what_is_worked_out_by_hand():
    # Apart: 10° against 90°, both in a new place, the wrong way round, all the same.
    views = [pairs_at(10, 90), pairs_at(70, 120, norm=0.5), pairs_at(90, 10), pairs_at(50, 50)]
    curve = robustness_curve((0, 1, 2, 3), views, SAME)
    assert curve.amounts == (0, 1, 2, 3)
    assert curve.accuracy.tolist() == [1, 1, 0.5, 0.5]
    assert curve.std.tolist() == [0, 0, 0, 0]
    assert curve.fixed_accuracy.tolist() == [1, 0.5, 0, 0.5]  # of 10° and 90° the threshold is 0.04, at 11.5°
    assert curve.tar.tolist() == [1, 1, 0, 0]
    assert np.allclose(curve.norms[:, :2], [[1, 1], [0.5, 0.5], [1, 1], [1, 1]], atol=1e-6)


def test_the_clean_point_is_what_verification_says(bins):
    images, issame = load_bin(bins / "good.bin")
    views = patch_means(images), patch_means(images[:, :, ::-1])
    expected = score(*views, issame)
    curve = robustness_curve((0,), [np.stack(views)], issame)
    assert curve.accuracy.tolist() == [expected.mean]
    assert curve.std.tolist() == [expected.std]
    assert curve.norms.mean() == pytest.approx(expected.xnorm)


def test_a_network_that_knows_places_suffers_from_every_shift(bins):
    data = {"good": read_pairs(bins / "good.bin", NUM_PAIRS, 0)}
    curves = measure(stub_run(patch_means), ["m"], data, {"shift": (0, 0.1, 0.5), "noise": (0, 5)})
    shifted, noisy = curves["m"]["good"]["shift"], curves["m"]["good"]["noise"]
    assert shifted.accuracy[0] >= 0.95
    assert shifted.accuracy[2] < 0.8
    assert (np.diff(shifted.fixed_accuracy) < 0).all()
    assert noisy.accuracy[1] == noisy.accuracy[0]  # a mean over 256 pixels does not mind


def test_the_sign_of_the_correlation_is_that_of_the_network(bins):
    data = {"good": read_pairs(bins / "good.bin", NUM_PAIRS, 0)}

    def honest(faces):
        return normalise(patch_means(faces)) * sharpness(faces)

    def vain(faces):
        return normalise(patch_means(faces)) / sharpness(faces)

    curves = measure(stub_run(honest, vain), ["honest", "vain"], data, {"blur": (0, 3, 6, 12)})
    assert curves["honest"]["good"]["blur"].correlation.rho == pytest.approx(1)
    assert curves["vain"]["good"]["blur"].correlation.rho == pytest.approx(-1)
    (warning,) = warnings(curves, {})
    assert "vain gives worse images longer features: blur of good (ρ -1.00 ± 0.00)" in warning
    table = accuracy_table(curves, "blur").get_string().splitlines()
    assert table[3].split()[-4:] == ["+1.00", "±", "0.00", "|"]
    assert table[4].split()[-5:] == ["-1.00", "±", "0.00", "!", "|"]


def curve_with(correlation: Correlation) -> Curve:
    norms = np.full((1, 6), 10.0)
    return Curve((0,), *[np.ones(1)] * 4, norms=norms, clean_norms=norms[0], correlation=correlation)


def test_what_may_be_chance_is_not_warned_of():
    curves = {"m": {"good": {"blur": curve_with(Correlation(-0.1, 0.2))}}}
    assert warnings(curves, {"m": Correlation(-0.1, 0.1)}) == []
    curves["m"]["good"]["noise"] = curve_with(Correlation(-0.3, 0.2))
    (warning,) = warnings(curves, {})
    assert "noise of good (ρ -0.30 ± 0.20)" in warning
    assert "blur" not in warning


def test_sets_whose_norms_grow_as_quality_falls_are_warned_of():
    curves = {"m": {name: {"blur": curve_with(Correlation(0.0, 0.0))} for name in ("first", "second")}}
    (warning,) = warnings(curves, {"m": Correlation(-0.5, 0.1)})
    assert "from first to second (ρ -0.50 ± 0.10)" in warning
    assert warnings(curves, {"m": Correlation(0.5, 0.1)}) == []


def test_all_networks_see_the_same_faces_and_one_side_leaves_the_first_image_alone(bins):
    data = {"good": read_pairs(bins / "good.bin", NUM_PAIRS, 0)}
    images = data["good"][0]
    both, one = (stub_run(patch_means, patch_means, one_side=choice) for choice in (False, True))
    curves = measure(both, ["a", "b"], data, {"rotation": (0, 20)})
    seen = [faces for _, faces in both.calls]
    assert [model for model, _ in both.calls] == [0, 1, 0, 1]
    assert np.array_equal(seen[0], images)
    assert np.array_equal(seen[2], seen[3])
    assert (seen[2] != images).any(axis=(1, 2, 3)).all()
    whole = curves["a"]["good"]["rotation"]
    assert np.array_equal(whole.norms, curves["b"]["good"]["rotation"].norms)
    half = measure(one, ["a", "b"], data, {"rotation": (0, 20)})["a"]["good"]["rotation"]
    assert [len(faces) for _, faces in one.calls] == [40, 40, 20, 20]
    assert np.array_equal(one.calls[0][1], images)
    assert np.array_equal(half.norms[0], whole.norms[0, 1::2])
    assert (half.norms[1] != half.norms[0]).all()
    assert np.array_equal(half.clean_norms, whole.norms[0])


def test_one_side_counts_the_norms_of_perturbed_images_alone(bins):
    data = {"good": read_pairs(bins / "good.bin", NUM_PAIRS, 0)}

    def honest(faces):
        return normalise(patch_means(faces)) * sharpness(faces)

    both, one = (
        measure(stub_run(honest, one_side=choice), ["m"], data, {"blur": (0, 3, 6, 12)})["m"]["good"]["blur"]
        for choice in (False, True)
    )
    assert one.correlation.rho == both.correlation.rho == pytest.approx(1)
    assert np.allclose(np.median(one.norms, axis=1), np.median(both.norms[:, 1::2], axis=1))
    assert np.array_equal(one.clean_norms, both.clean_norms)  # what sets are compared by


# ------------------------------------------------------------------------------------------------- the pairs


def test_the_first_pairs_of_a_set_are_balanced_and_all_of_them_keep_their_order(tmp_path):
    issame = np.arange(60) < 30  # as LFW: a block of each kind
    encoded = encoded_pairs(0, num_pairs=60)
    save_bin(tmp_path / "blocks.bin", encoded, issame)
    images, _ = load_bin(tmp_path / "blocks.bin")
    found, kind = read_pairs(tmp_path / "blocks.bin", 21, seed=0)
    assert kind.tolist() == [True, False] * 10 + [True]
    rows = np.array(
        [[2 * (15 * (i % 2) * 2 + i // 2), 2 * (15 * (i % 2) * 2 + i // 2) + 1] for i in range(21)]
    )
    assert np.array_equal(found, images[rows.ravel()])
    everything, kind = read_pairs(tmp_path / "blocks.bin", 60, seed=0)
    assert np.array_equal(everything, images)
    assert np.array_equal(kind, issame)


@pytest.fixture
def folder(tmp_path):
    """Three people with 5, 4 and 1 images; the colour of each pixel tells person and image."""
    for person, count in enumerate((5, 4, 1)):
        (tmp_path / "faces" / f"p{person}").mkdir(parents=True)
        for image in range(count):
            pixels = np.full((112, 112, 3), 10 * person + image, np.uint8)
            cv2.imwrite(str(tmp_path / "faces" / f"p{person}" / f"{image}.png"), pixels)
    return tmp_path / "faces"


def test_pairs_of_a_folder_are_distinct_balanced_and_drawn_by_seed(folder):
    images, issame = read_pairs(folder, 32, seed=0)  # all 16 pairs of one person that there are
    colours = images[:, 0, 0, 0].reshape(-1, 2)
    assert np.array_equal(colours[:, 0] // 10 == colours[:, 1] // 10, issame)
    assert issame.tolist() == [True, False] * 16
    assert len({tuple(sorted(pair)) for pair in colours.tolist()}) == 32
    assert (colours[:, 0] != colours[:, 1]).all()
    assert 2 in colours // 10
    assert np.array_equal(read_pairs(folder, 32, seed=0)[0], images)
    assert not np.array_equal(read_pairs(folder, 32, seed=1)[0], images)


def test_a_folder_that_cannot_make_the_pairs_is_told(folder):
    with pytest.raises(ValueError, match="faces has 16 pairs of one person, 34 pairs take 17 of them"):
        read_pairs(folder, 34, seed=0)
    cv2.imwrite(str(folder / "p0" / "0.png"), np.zeros((96, 96, 3), np.uint8))
    with pytest.raises(ValueError, match=r"0\.png is 96x96, expected an aligned face"):
        read_pairs(folder, 32, seed=0)


# ---------------------------------------------------------------------------------------------- the pictures


def random_curves(models, sets, kinds):
    rng = np.random.default_rng(0)

    def curve(kind):
        amounts = (PERTURBATIONS[kind].clean, *PERTURBATIONS[kind].amounts)
        rates = rng.uniform(0.5, 1, (4, len(amounts)))
        norms = rng.normal(20, 3, (len(amounts), 40))
        return Curve(amounts, *rates, norms=norms, clean_norms=norms[0], correlation=Correlation(0.5, 0.1))

    return {model: {name: {kind: curve(kind) for kind in kinds} for name in sets} for model in models}


def test_the_picture_has_a_panel_a_perturbation_and_a_line_a_model_and_set():
    curves = random_curves(["a", "b"], ["hq", "lq"], ["rotation", "resolution", "jpeg"])
    figure = robustness_figure(curves)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["rotation", "resolution", "jpeg"]
    expected = [curves[model][name] for name in ("hq", "lq") for model in ("a", "b")]
    for axes, kind in zip(figure.axes, ("rotation", "resolution", "jpeg")):
        for line, kinds in zip(axes.get_lines(), expected, strict=True):
            assert np.allclose(line.get_xdata(), kinds[kind].amounts)
            assert np.allclose(line.get_ydata(), kinds[kind].accuracy)
            low, high = axes.get_ylim()
            assert low < kinds[kind].accuracy.min() <= kinds[kind].accuracy.max() < high
        lines = axes.get_lines()
        assert [line.get_color() == lines[0].get_color() for line in lines] == [True, False, True, False]
        assert [line.get_linestyle() for line in lines] == ["-", "-", "--", "--"]
    assert [axes.xaxis_inverted() for axes in figure.axes] == [False, True, True]  # clean at the left
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {"a, hq", "a, lq", "b, hq", "b, lq"}


def test_of_a_single_model_colours_tell_the_sets():
    figure = robustness_figure(random_curves(["a"], ["hq", "lq"], ["blur"]))
    first, second = figure.axes[0].get_lines()
    assert first.get_color() != second.get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["hq", "lq"]


@pytest.mark.parametrize("kinds", [["rotation"], list(PERTURBATIONS)])
@pytest.mark.parametrize("names", ["ab", [f"{name}_r100_ms1mv2_with_a_long_name" for name in "abc"]])
def test_the_legend_is_inside_the_picture_and_above_the_panels(kinds, names):
    figure = robustness_figure(random_curves(names, [f"survface_training_{name}" for name in names], kinds))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    inner = legend.get_window_extent()
    assert figure.bbox.x0 <= inner.x0 < inner.x1 <= figure.bbox.x1
    assert inner.y1 <= figure.bbox.y1
    assert inner.y0 >= max(axes.get_window_extent().y1 for axes in figure.axes)
    assert min(axes.get_window_extent().height for axes in figure.axes) > 1.4 * figure.dpi


def test_a_band_shows_one_standard_error_around_each_curve():
    curves = random_curves(["a", "b"], ["hq"], ["rotation"])
    (axes,) = robustness_figure(curves).axes
    for band, model in zip(axes.collections, curves, strict=True):
        curve = curves[model]["hq"]["rotation"]
        corners = band.get_paths()[0].vertices
        for amount, mean, error in zip(curve.amounts, curve.accuracy, curve.std / 3):  # ten folds
            heights = corners[np.isclose(corners[:, 0], amount), 1]
            assert (heights.min(), heights.max()) == pytest.approx((mean - error, mean + error))
    ((row, _),) = [accuracy_table(curves, "rotation").rows]
    first = curves["a"]["hq"]["rotation"]
    assert row[2] == f"{100 * first.accuracy[0]:.1f} ± {100 * first.std[0] / 3:.1f}"


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_ticks_of_the_usual_amounts_do_not_touch(kind):
    figure = robustness_figure(random_curves(["a"], ["hq"], list(PERTURBATIONS)))
    figure.draw_without_rendering()
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left") == kind]
    assert_apart(axes)


def assert_apart(axes):
    """The labels of the x axis that are seen, from left to right."""
    low, high = sorted(axes.get_xlim())
    labels = [
        text for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high and text.get_text()
    ]
    extents = sorted((label.get_window_extent() for label in labels), key=lambda extent: extent.x0)
    assert len(extents) > 1
    for left, right in pairwise(extents):
        assert left.x1 + 8 < right.x0  # pixels


def test_norms_have_a_block_a_model_with_every_set_and_survive_a_norm_that_is_constant():
    curves = random_curves(["a", "b"], ["hq", "lq"], ["blur", "noise"])
    for name in ("hq", "lq"):
        curves["b"][name]["blur"].norms[:] = curves["b"][name]["noise"].norms[:] = 7
    figure = norm_figure(curves)
    assert [block.get_suptitle() for block in figure.subfigs] == ["a", "b"]
    titles = [axes.get_title(loc="left") for axes in figure.subfigs[0].axes]
    assert titles == ["clean sets", "blur, hq", "noise, hq", "blur, lq", "noise, lq"]
    figure.savefig("/dev/null", format="png")


@pytest.mark.parametrize("spread", [1e-5, 1e-2, 1, 1000])
def test_ticks_of_norms_are_plain_numbers_that_do_not_touch(spread):
    curves = random_curves(["a"], ["hq"], ["blur"])
    curve = curves["a"]["hq"]["blur"]
    curve.norms[:] = 5017 + spread * (curve.norms - 20)
    figure = norm_figure(curves)
    figure.draw_without_rendering()
    for axes in figure.subfigs[0].axes:
        assert axes.xaxis.get_offset_text().get_text() == ""
        assert_apart(axes)


# ------------------------------------------------------------------------------------------------- the script


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/lfw.bin", "y/cfp.bin"], ["lfw", "cfp"]),
        (["arc/model.pt", "ada/model.pt"], ["arc", "ada"]),
        (["x/lfw.bin", "y/lfw.bin", "y/cfp.bin"], ["x/lfw", "y/lfw", "y/cfp"]),
        (["1/arc/model.pt", "2/arc/model.pt"], ["1/arc/model.pt", "2/arc/model.pt"]),
    ],
)
def test_names_are_as_short_as_tells_them_apart(paths, names):
    assert names_of([Path(path) for path in paths]) == names


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pairs", "19"], "--pairs is 19, allowed: 20 or more"),
        (["--only", "blurr=2"], "perturbation 'blurr'; did you mean 'blur'"),
        (["--only", "noise=300"], "amount 300: noise takes numbers from 0 to 255"),
        (["--data", "{bins}/goood.bin"], r"no verification set .*goood.bin; did you mean 'good.bin'\?"),
        (["--data", "{bins}/good.bin", "{bins}/good.bin"], "good.bin is given twice"),
        (["--best-first"], "--best-first orders several sets, --data has one: .*good.bin"),
        (["--data", "{bins}"], "neither train.rec nor images"),
    ],
)
def test_mistakes_are_told_before_a_network_is_loaded(bins, monkeypatch, more, message):
    command = ["eval_robustness.py", "--model", "there_is_none.pt", "--data", f"{bins}/good.bin"]
    monkeypatch.setattr(sys, "argv", command + [word.format(bins=bins) for word in more])
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        eval_robustness.main()
    assert "\n" not in str(told.value)


def test_the_script_writes_what_the_features_say_and_the_same_again(tmp_path, bins):
    models = [save_small_model(tmp_path / f"{seed}.pt", seed) for seed in range(2)]
    sets = [bins / "good.bin", bins / "bad.bin"]
    script = ROOT / "eval" / "eval_robustness.py"
    command = (script, "--model", *models, "--data", *sets, "--only", "resolution=10", "--batch-size", 8)
    unordered = run(*command, cwd=tmp_path)
    assert unordered.returncode == 0, unordered.stderr
    assert "between_sets" not in json.loads((tmp_path / "0.pt.robustness" / "results.json").read_text())
    assert "ρ between sets" not in unordered.stdout
    assert "good to bad" not in unordered.stdout
    command = (*command, "--best-first")
    first = run(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    out = tmp_path / "0.pt.robustness"
    assert {path.name for path in out.iterdir()} == {
        "results.json",
        "report.html",
        "robustness.png",
        "norms.png",
    }
    written = (out / "results.json").read_bytes()
    again = run(*command, "--no-cache", cwd=tmp_path)
    assert (out / "results.json").read_bytes() == written
    assert again.stdout == first.stdout

    results = json.loads(written)
    images, issame = load_bin(sets[1])
    faces = PERTURBATIONS["resolution"].apply(images, 10, 0)
    expected = score(*extract(load_backbone(models[1]), faces, batch_size=8), issame)
    curve = results["curves"]["1"]["bad"]["resolution"]
    assert curve["amounts"] == [112, 10]
    assert curve["accuracy"][1] == expected.mean
    assert results["settings"]["pairs"] == {"good": NUM_PAIRS, "bad": NUM_PAIRS}
    assert set(results["between_sets"]) == {"0", "1"}
    assert "ρ between sets" in first.stdout
    found = [kinds["resolution"] for sets in results["curves"].values() for kinds in sets.values()]
    negative = [
        each["norm_quality_correlation"] + each["norm_quality_interval"] < 0
        for each in [*found, *results["between_sets"].values()]
    ]
    assert first.stdout.count(" ! |") == sum(negative)
    assert ("Warning: " in first.stdout) == any(negative)
    assert f"{100 * expected.mean:.1f}" in first.stdout
