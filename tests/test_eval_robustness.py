"""Robustness: curves worked out by hand, what is warned of, pairs of sets and folders, the script."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from backbones import load_backbone
from eval import eval_robustness
from eval.eval_robustness import accuracy_table, marked, measure, names_of, warnings
from eval.features import extract
from eval.metrics import normalise
from eval.readers.bin_sets import load_bin, save_bin
from eval.robustness.curves import Correlation, Curve, order_warnings, robustness_curve
from eval.robustness.pairs import choose_pairs
from eval.robustness.perturbations import PERTURBATIONS
from eval.verification import score
from helpers.evaluation_runs import ROOT, run, save_small_model

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


def test_a_set_that_is_sorted_by_kind_is_warned_of_once():
    order = np.argsort(~SAME, kind="stable")
    views = pairs_at(10, 90).reshape(2, NUM_PAIRS, 2, 2)[:, order].reshape(2, -1, 2)
    curves = {kind: robustness_curve((0,), [views], SAME[order]) for kind in ("shift", "blur")}
    assert [text[:26] for text in order_warnings({"model": {"mine": curves}})] == [
        "Warning: mine: 10 of the 1"
    ]
    mixed = {"shift": robustness_curve((0,), [pairs_at(10, 90)], SAME)}
    assert order_warnings({"model": {"mine": mixed}}) == []


def test_a_network_that_knows_places_suffers_from_every_shift(bins):
    data = {"good": choose_pairs(bins / "good.bin", NUM_PAIRS, 0)}
    curves = measure(stub_run(patch_means), ["m"], data, {"shift": (0, 0.1, 0.5), "noise": (0, 5)})
    shifted, noisy = curves["m"]["good"]["shift"], curves["m"]["good"]["noise"]
    assert shifted.accuracy[0] >= 0.95
    assert shifted.accuracy[2] < 0.8
    assert (np.diff(shifted.fixed_accuracy) < 0).all()
    assert noisy.accuracy[1] == noisy.accuracy[0]  # a mean over 256 pixels does not mind


def test_the_sign_of_the_correlation_is_that_of_the_network(bins):
    data = {"good": choose_pairs(bins / "good.bin", NUM_PAIRS, 0)}

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
    data = {"good": choose_pairs(bins / "good.bin", NUM_PAIRS, 0)}
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
    data = {"good": choose_pairs(bins / "good.bin", NUM_PAIRS, 0)}

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
    found, kind = choose_pairs(tmp_path / "blocks.bin", 21, seed=0)
    assert kind.tolist() == [True, False] * 10 + [True]
    rows = np.array(
        [[2 * (15 * (i % 2) * 2 + i // 2), 2 * (15 * (i % 2) * 2 + i // 2) + 1] for i in range(21)]
    )
    assert np.array_equal(found, images[rows.ravel()])
    everything, kind = choose_pairs(tmp_path / "blocks.bin", 60, seed=0)
    assert np.array_equal(everything, images)
    assert np.array_equal(kind, issame)


@pytest.fixture
def folder(tmp_path):
    """Three people with 5, 4 and 1 images; the colour of each pixel shows person and image."""
    for person, count in enumerate((5, 4, 1)):
        (tmp_path / "faces" / f"p{person}").mkdir(parents=True)
        for image in range(count):
            pixels = np.full((112, 112, 3), 10 * person + image, np.uint8)
            cv2.imwrite(str(tmp_path / "faces" / f"p{person}" / f"{image}.png"), pixels)
    return tmp_path / "faces"


def test_pairs_of_a_folder_are_distinct_balanced_and_drawn_by_seed(folder):
    images, issame = choose_pairs(folder, 32, seed=0)  # all 16 pairs of one person that there are
    colours = images[:, 0, 0, 0].reshape(-1, 2)
    assert np.array_equal(colours[:, 0] // 10 == colours[:, 1] // 10, issame)
    assert issame.tolist() == [True, False] * 16
    assert len({tuple(sorted(pair)) for pair in colours.tolist()}) == 32
    assert (colours[:, 0] != colours[:, 1]).all()
    assert 2 in colours // 10
    assert np.array_equal(choose_pairs(folder, 32, seed=0)[0], images)
    assert not np.array_equal(choose_pairs(folder, 32, seed=1)[0], images)


def test_a_folder_that_cannot_make_the_pairs_is_reported(folder):
    with pytest.raises(ValueError, match="faces has 16 pairs of one person, 34 pairs take 17 of them"):
        choose_pairs(folder, 34, seed=0)
    cv2.imwrite(str(folder / "p0" / "0.png"), np.zeros((96, 96, 3), np.uint8))
    with pytest.raises(ValueError, match=r"0\.png is 96x96, expected an aligned face"):
        choose_pairs(folder, 32, seed=0)


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
def test_mistakes_are_reported_before_a_network_is_loaded(bins, monkeypatch, more, message):
    command = ["eval_robustness.py", "--model", "there_is_none.pt", "--data", f"{bins}/good.bin"]
    monkeypatch.setattr(sys, "argv", command + [word.format(bins=bins) for word in more])
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        eval_robustness.main()
    assert "\n" not in str(error.value)


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
