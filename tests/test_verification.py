"""Verification: the protocol against recorded numbers and a plain loop, the script from another directory."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from eval.baseline import compare
from eval.features import extract
from eval.kfold import VerificationResult
from eval.metrics import normalise
from eval.readers.bin_sets import load_bin
from eval.report import Report
from eval.verification import evaluate, load_set, main, report, summary, verify
from eval.verification_page import pairs_of, report_sets
from eval.verification_report import means, table
from helpers.evaluation_runs import BINS, GOLDENS, ROOT, Fake, run, save_small_model


def test_the_recorded_numbers_are_met_exactly():
    golden = np.load(GOLDENS / "verification.npz")
    result = evaluate(normalise(golden["plain"] + golden["flip"]), golden["issame"])
    assert np.array_equal(result.accuracy, golden["accuracy"])
    assert np.array_equal(result.tpr, golden["tpr"])
    assert np.array_equal(result.fpr, golden["fpr"])


@pytest.fixture(scope="module")
def lfw():
    golden = np.load(GOLDENS / "lfw_embeddings.npz")
    unit = normalise(golden["plain"].astype(np.float64) + golden["flip"])
    return unit[golden["pairs"].reshape(-1)], golden["issame"], golden["accuracy"]


def test_real_features_on_lfw_score_as_recorded(lfw):
    embeddings, issame, accuracy = lfw
    result = evaluate(embeddings, issame)
    assert np.array_equal(result.accuracy, accuracy)
    assert result.mean == pytest.approx(0.99433, abs=5e-6)
    assert result.std == np.std(accuracy)  # of the population, not of a sample
    assert 0.25 < result.cosine_threshold.min() <= result.cosine_threshold.max() < 0.35
    assert result.val == pytest.approx(0.98933, abs=5e-6)


def test_six_thousand_pairs_take_at_most_a_fifth_of_a_second(lfw):
    embeddings, issame, _ = lfw
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        evaluate(embeddings, issame)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


def slow_reference(distance, issame, num_folds):
    """The published steps as plain loops: accuracy, tpr, fpr, thresholds, val, far."""
    thresholds, fine = np.arange(0, 4, 0.01), np.arange(0, 4, 0.001)
    accuracy, tpr, fpr, best, val, far = [], [], [], [], [], []
    for train, test in KFold(num_folds, shuffle=False).split(distance):
        right = [np.sum((distance[train] < t) == issame[train]) for t in thresholds]
        best.append(thresholds[np.argmax(right)])
        accuracy.append(np.mean((distance[test] < best[-1]) == issame[test]))
        same, different = distance[test][issame[test]], distance[test][~issame[test]]
        tpr.append([np.mean(same < t) if len(same) else 0 for t in thresholds])
        fpr.append([np.mean(different < t) if len(different) else 0 for t in thresholds])

        strangers = distance[train][~issame[train]]
        rate = [np.mean(strangers < t) if len(strangers) else 0 for t in fine]
        strict = 0
        for i in range(1, len(fine)):
            if rate[i] >= 1e-3:
                strict = fine[i - 1] + (fine[i] - fine[i - 1]) * (1e-3 - rate[i - 1]) / (
                    rate[i] - rate[i - 1]
                )
                break
        val += [np.mean(same < strict)] if len(same) else []
        far += [np.mean(different < strict)] if len(different) else []
    return accuracy, np.mean(tpr, 0), np.mean(fpr, 0), best, np.mean(val), np.mean(far)


@settings(max_examples=25)
@given(st.data(), st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_evaluation_equals_a_plain_loop(data, num_folds, seed):
    num_pairs = data.draw(st.integers(num_folds, 37))
    rng = np.random.default_rng(seed)
    issame = rng.random(num_pairs) < 0.5
    assume(0 < issame.sum() < num_pairs)
    # Squared distances exactly on thresholds (0, 2), at the end of the range (4), repeated, and anywhere.
    angle = rng.choice([0, np.pi / 2, np.pi, 1.0, *rng.uniform(0, np.pi, 12)], num_pairs)
    second = np.where(
        np.isin(angle, [0, np.pi / 2, np.pi])[:, None], np.round([np.cos(angle), np.sin(angle)]).T, 0
    )
    second = np.where(second.any(axis=1)[:, None], second, np.stack([np.cos(angle), np.sin(angle)], axis=1))
    embeddings = np.empty((2 * num_pairs, 2))
    embeddings[0::2], embeddings[1::2] = (1, 0), second

    result = evaluate(embeddings, issame, num_folds)
    distance = np.sum((embeddings[0::2] - embeddings[1::2]) ** 2, axis=1)
    accuracy, tpr, fpr, best, val, far = slow_reference(distance, issame, num_folds)
    assert np.array_equal(result.accuracy, accuracy)
    assert np.array_equal(result.threshold, best)
    assert np.allclose(result.tpr, tpr, atol=1e-12)
    assert np.allclose(result.fpr, fpr, atol=1e-12)
    assert (result.val, result.far) == (pytest.approx(val), pytest.approx(far))


def pairs_at(cosine_same: float, cosine_different: float, num_pairs: int = 600):
    """Unit embeddings in the plane, alternately a same and a different pair, at the given cosines."""
    issame = np.arange(num_pairs) % 2 == 0
    cosine = np.where(issame, cosine_same, cosine_different)
    embeddings = np.empty((2 * num_pairs, 2))
    embeddings[0::2] = (1, 0)
    embeddings[1::2] = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)
    return embeddings, issame


def test_perfect_features_score_one():
    result = evaluate(*pairs_at(0.9003, 0.1003))
    assert (result.mean, result.std, result.val, result.far) == (1, 0, 1, 0)
    # All thresholds between the two distances (0.1994, 1.7994) are equally good: the smallest wins.
    assert np.allclose(result.threshold, 0.2)


def test_inverted_features_are_no_better_than_accepting_nobody():
    result = evaluate(*pairs_at(0.1003, 0.9003))
    assert result.mean == 0.5
    assert (result.threshold == 0).all()
    assert result.val == 0


def test_random_features_score_chance():
    rng = np.random.default_rng(0)
    result = evaluate(normalise(rng.normal(size=(12000, 16))), np.arange(6000) % 2 == 0)
    assert abs(result.mean - 0.5) < 0.02
    assert result.val < 0.02


def test_the_cosine_threshold_is_the_distance_threshold_in_other_words():
    embeddings, issame = pairs_at(0.9003, 0.1003)
    result = evaluate(embeddings, issame)
    cosine = np.sum(embeddings[0::2] * embeddings[1::2], axis=1)
    assert np.array_equal(cosine > result.cosine_threshold[0], issame)


@pytest.mark.parametrize(
    ("embeddings", "issame", "message"),
    [
        (np.eye(4), [True, False, True], r"\(4, 4\) and issame \(3,\) do not fit"),
        (np.eye(4)[:3], [True, False], "do not fit"),
        (2 * np.eye(4), [True, False], "length 2"),
        (np.full((4, 4), np.nan), [True, False], "length nan"),
        (np.eye(4), [True, True], "all 2 pairs are of the same person"),
        (np.eye(4), [False, False], "all 2 pairs are of different people"),
        (np.eye(4), [True, False], "2 items cannot be split into 10 folds"),
    ],
)
def test_input_that_cannot_be_scored_is_an_error(embeddings, issame, message):
    with pytest.raises(ValueError, match=message):
        evaluate(embeddings, np.array(issame))


def scored(unit, issame):
    """`evaluate`, with the mean norm that a table wants."""
    return replace(evaluate(unit, issame), xnorm=1.0)


def noisy_pairs(issame, seed=0):
    """Features `(2P, 64)` of pairs that are told apart in about two of three cases."""
    random = np.random.default_rng(seed)
    first, noise = random.standard_normal((2, len(issame), 64))
    both = np.stack([first, np.where(issame[:, None], 0.2 * first, 0) + noise], axis=1)
    return normalise(both.reshape(-1, 64))


def test_a_set_that_is_sorted_by_kind_scores_too_low_and_is_warned_of():
    alternating = np.arange(600) % 2 == 0
    by_kind = np.argsort(~alternating, kind="stable")
    unit = noisy_pairs(alternating)
    mixed = scored(unit, alternating)
    in_blocks = scored(unit.reshape(600, 2, 64)[by_kind].reshape(-1, 64), alternating[by_kind])
    assert in_blocks.mean < mixed.mean - 0.02
    assert mixed.order_warning == ""
    assert in_blocks.order_warning.startswith("10 of the 10 folds hold one kind of pair only")
    files, sets = {"mine": BINS / "py3.bin"}, {"mine": (None, alternating)}
    assert "\nWarning: mine: 10 of the 10 folds" in summary({"mine": in_blocks}, files, sets)
    assert "Warning" not in summary({"mine": mixed}, files, sets)


def test_another_list_of_as_many_pairs_is_told_from_the_baseline_s():
    def outcomes_of(issame):
        page, result = Report("Verification", {}), scored(noisy_pairs(issame), issame)
        report_sets(page, {"mine": result}, {"mine": report(result, BINS / "py3.bin", len(issame))})
        return page.outcomes

    alternating = np.arange(100) % 2 == 0
    ours = outcomes_of(alternating)
    assert list(compare(ours, outcomes_of(alternating))) == ["mine accuracy"]
    with pytest.raises(ValueError, match="of other data: mine accuracy"):
        compare(ours, outcomes_of(~alternating))


@pytest.mark.parametrize(("num_different", "has_val"), [(1110, False), (1120, True)])
def test_val_is_printed_where_nine_folds_have_a_thousand_pairs_of_different_people(num_different, has_val):
    issame = np.arange(num_different + 100) % (num_different // 100 + 1) == 0
    issame[np.flatnonzero(issame)[100:]] = False
    result = scored(noisy_pairs(issame), issame)
    assert result.enough_pairs == has_val
    row = summary({"set": result}, {"set": BINS}, {"set": (None, issame)}).splitlines()[3]
    assert ("too few pairs" in row) != has_val


@pytest.mark.parametrize(
    ("far", "pairs", "words"),
    [
        (0.0033, 1000, "TAR 1.0000 at FAR 0.0033"),
        (0.0033, 10, "TAR 1.0000 at FAR 0.0033 (too few pairs for 0.001)"),
        (1.0, 1000, "no TAR at FAR 0.001: the threshold for it lets in 1.0000"),
    ],
)
def test_an_accept_rate_is_shown_only_near_the_false_accept_rate_that_was_asked_for(far, pairs, words):
    shown = VerificationResult(
        *[None] * 4, val=1.0, far=far, right=None, same=None, num_pairs=np.full((10, 2), pairs)
    )
    assert shown.rate_in_words == words


def test_verify_is_evaluate_on_the_sum_of_both_views():
    images, issame = load_bin(BINS / "py3.bin")
    result = verify(Fake(), images, issame)
    plain, flip = extract(Fake(), images)
    expected = evaluate(normalise(plain.astype(np.float64) + flip), issame)
    assert np.array_equal(result.accuracy, expected.accuracy)
    lengths = [*np.linalg.norm(plain, axis=1), *np.linalg.norm(flip, axis=1)]
    assert result.xnorm == pytest.approx(np.mean(lengths), rel=1e-6)
    assert expected.xnorm is None


def test_the_summary_of_several_sets_is_a_table_with_their_mean():
    files = {name: BINS / f"{name}.bin" for name in ("py2", "py3")}
    sets = {name: load_set(path) for name, path in files.items()}
    results = {name: verify(Fake(), *pairs) for name, pairs in sets.items()}
    lines = summary(results, files, sets).splitlines()
    for name, line in zip(files, lines[3:5], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        accuracy = f"{100 * results[name].mean:.2f} ± {100 * results[name].std:.2f}"
        assert cells[:3] == [name, str(len(sets[name][1])), accuracy]
    mean = np.mean([result.mean for result in results.values()])
    assert [cell.strip() for cell in lines[5].split("|")[1:4]] == ["mean", "", f"{100 * mean:.2f}"]
    assert summary({}, {}, {}) == ""


def report_of(accuracy: float, val: float, enough: bool, **model) -> dict:
    shown = dict(pairs=6000, std=0.0, far=0.0, best_cosine=0.2, xnorm=20.0)
    return dict(accuracy=accuracy, val=val, enough_pairs=enough, **shown, **model)


def test_a_mean_is_over_the_sets_of_one_model_and_of_val_over_those_that_have_it():
    old, new = dict(model="old.pt"), dict(model="new.pt")
    reports = {
        "lfw old.pt": report_of(0.5, 0.25, True, **old),
        "lfw new.pt": report_of(0.75, 0.5, True, **new),
    }
    assert [row[0] for row in table(reports).rows] == list(reports)
    reports |= {
        "few old.pt": report_of(1.0, 0.0, False, **old),
        "few new.pt": report_of(1.0, 0.0, False, **new),
    }
    expected = {"mean old.pt": (0.75, 0.25), "mean new.pt": (0.875, 0.5)}
    assert {name: (mean["accuracy"], mean["val"]) for name, mean in means(reports).items()} == expected
    assert [row[2:4] for row in table(reports).rows[-2:]] == [["75.00", "25.00"], ["87.50", "50.00"]]
    assert means({"few": report_of(1.0, 0.0, False)}) == {"mean": {"accuracy": 1.0, "val": None}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "model.pt")


def test_the_script_reports_every_set_from_any_directory_on_one_rank_or_two(tmp_path, model):
    data = (BINS / "py2.bin", BINS / "numpy.bin")
    arguments = (ROOT / "eval" / "verification.py", "--model", model, "--data", *data, "--batch-size", 7)
    alone = run(*arguments, "--out", "one", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert all(word in alone.stdout for word in ("py2", "numpy", "mean", "XNorm", "±", "FAR=0.001"))
    assert alone.stderr == ""  # no progress bar where nobody looks
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "results.json",
        "roc.png",
        "det.png",
        "cosines_py2.png",
        "cosines_numpy.png",
        "outcomes.npz",
        "report.html",
    }
    one = json.loads((tmp_path / "one" / "results.json").read_text())
    assert one["settings"]["models"][0]["network"] == "mbf"
    assert one["settings"]["models"][0]["input_order"] == "RGB"
    assert str(torch.__version__).startswith(one["versions"]["torch"])
    assert list(one["sets"]) == ["py2", "numpy"]
    score = one["sets"]["py2"]
    assert score["accuracy"] == pytest.approx(np.mean(score["fold_accuracy"]))
    assert f"{100 * score['accuracy']:.2f} ± {100 * score['std']:.2f}" in alone.stdout
    assert one["mean"]["accuracy"] == pytest.approx(
        (score["accuracy"] + one["sets"]["numpy"]["accuracy"]) / 2
    )
    thresholds = one["calibration"]["py2"]["thresholds"]
    assert [row["far"] for row in thresholds] == [0.1, 0.01, 0.001, 1e-4, 1e-5, 1e-6]
    assert thresholds[2]["cosine"] is None  # a handful of pairs

    launch = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    together = run(*launch, *arguments, "--out", "two/results", cwd=tmp_path)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("XNorm") == 1  # rank 0 alone reports
    two = json.loads((tmp_path / "two" / "results" / "results.json").read_text())
    assert two["settings"]["ranks"] == 2
    assert two["sets"]["py2"]["fold_accuracy"] == score["fold_accuracy"]
    assert two["sets"]["py2"]["xnorm"] == pytest.approx(score["xnorm"], rel=1e-5)


def test_a_second_run_writes_the_same_files_and_nothing_else(tmp_path, monkeypatch):
    model = save_small_model(tmp_path / "model.pt")
    command = ["verification.py", "--model", str(model), "--data", str(BINS / "py3.bin"), "--no-cache"]
    monkeypatch.setattr("sys.argv", command)
    written = []
    for _ in range(2):
        main()
        written.append({p.name: p.read_bytes() for p in (tmp_path / "model.pt.verification").iterdir()})
    assert written[0] == written[1]
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "model.pt.verification"}


def test_the_script_reports_a_mistake_in_one_line(tmp_path, model):
    (tmp_path / "evil.bin").write_bytes(b"cos\nsystem\n(S'touch broken-in'\ntR.")
    for name, message in (("evil.bin", "os.system"), ("evill.bin", "did you mean 'evil.bin'?")):
        failed = run(ROOT / "eval" / "verification.py", "--model", model, "--data", name, cwd=tmp_path)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: ")
        assert failed.stderr.count("\n") == 1
        assert message in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["evil.bin"]


def test_the_page_shows_the_pairs_that_are_furthest_on_the_wrong_side():
    embeddings, same = pairs_at(0.9, 0.1, 40)
    cosines = np.linspace(-1, 1, 40)
    result = replace(evaluate(embeddings, same), right=cosines > 0)
    worst = pairs_of(np.zeros((80, 112, 112, 3), np.uint8), same, cosines, result).worst
    alike, unlike = ([caption for _, caption in faces] for faces in worst.values())
    assert alike[0] == "pair 0: cosine -1.000, wrong"  # of one person, least alike
    assert unlike[0] == "pair 39: cosine 1.000, right"  # of two people, most alike
    assert len(alike) == len(unlike) == 8


def test_which_pairs_are_decided_rightly_makes_the_accuracy(lfw):
    embeddings, issame, _ = lfw
    result = evaluate(embeddings, issame)
    assert np.array_equal(result.right.reshape(10, -1).mean(axis=1), result.accuracy)


def test_several_models_come_onto_one_page_and_are_compared_with_an_earlier_one(
    tmp_path, monkeypatch, capsys
):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    models = [
        save_small_model(tmp_path / name / "model.pt", seed) for seed, name in enumerate(("old", "new"))
    ]
    data = ["--data", str(BINS / "py3.bin"), "--no-cache"]
    monkeypatch.setattr(
        "sys.argv", ["verification.py", "--model", *map(str, models), *data, "--out", f"{tmp_path}/out"]
    )
    main()
    sets = json.loads((tmp_path / "out/results.json").read_text())["sets"]
    assert list(sets) == ["py3 old/model.pt", "py3 new/model.pt"]
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert f'<p class="about">{models[0]}, {models[1]}</p>' in page
    for model, baseline in zip(models, ([], ["--baseline", f"{models[0]}.verification/results.json"])):
        monkeypatch.setattr("sys.argv", ["verification.py", "--model", str(model), *data, *baseline])
        capsys.readouterr()
        main()
    assert "Against" in capsys.readouterr().out
    found = json.loads((tmp_path / "new/model.pt.verification/results.json").read_text())["baseline"][
        "differences"
    ]
    assert found["py3 accuracy"]["ours"] == pytest.approx(sets["py3 new/model.pt"]["accuracy"])
    assert found["py3 accuracy"]["theirs"] == pytest.approx(sets["py3 old/model.pt"]["accuracy"])


def test_a_baseline_of_other_data_costs_no_results(tmp_path, monkeypatch, capsys):
    model = save_small_model(tmp_path / "model.pt")
    common = ["verification.py", "--model", str(model), "--no-cache"]
    monkeypatch.setattr("sys.argv", [*common, "--data", str(BINS / "py3.bin"), "--out", f"{tmp_path}/old"])
    main()
    monkeypatch.setattr(
        "sys.argv",
        [
            *common,
            "--data",
            str(BINS / "py2.bin"),
            "--out",
            f"{tmp_path}/new",
            "--baseline",
            f"{tmp_path}/old",
        ],
    )
    with pytest.raises(ValueError, match="another protocol or other sets"):
        main()
    assert "py2" in json.loads((tmp_path / "new/results.json").read_text())["sets"]
