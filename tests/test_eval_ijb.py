"""IJB on features made by hand: numbers worked out on paper, and by the published steps on whole matrices."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from eval import eval_ijb
from eval.bootstrap import bootstrap_mean
from eval.ijb.data import IJB, Enrolment, load_ijb
from eval.ijb.protocol import (
    FARS,
    FPIRS,
    RANKS,
    Templates,
    build_templates,
    convention_of,
    identify,
    subjects_of,
    verify,
)
from eval.metrics import normalise
from helpers.evaluation_runs import save_small_model
from helpers.ijb_trees import write_ijb
from helpers.tinysurv_trees import directions, run_here

# ----------------------------------------------------------------------------------------------- the protocol


def benchmark(num_subjects: int, probes_each: int = 1) -> IJB:
    """One image a template: subject i is enrolled as template i, its probes follow; all pairs are listed."""
    subject = np.concatenate([np.arange(num_subjects)] * (1 + probes_each))
    first, second = np.triu_indices(len(subject), k=1)
    half = num_subjects // 2
    enrolled = np.arange(num_subjects)
    return IJB(
        name="IJBC",
        paths=[],
        landmarks=np.empty((0, 5, 2)),
        detector_scores=np.ones(len(subject)),
        templates=np.arange(len(subject)),
        media=np.arange(len(subject)),
        pairs=np.stack([first, second], axis=1),
        same=subject[first] == subject[second],
        galleries=(Enrolment(enrolled[:half], enrolled[:half]), Enrolment(enrolled[half:], enrolled[half:])),
        probes=Enrolment(np.arange(num_subjects, len(subject)), subject[num_subjects:]),
    )


def templates(features) -> Templates:
    return Templates(np.arange(len(features)), normalise(np.asarray(features, dtype=float)))


def test_perfect_features_score_100_percent_everywhere():
    ijb, features = benchmark(6), templates(np.concatenate([np.eye(6)] * 2))
    one, many = verify(ijb, features), identify(ijb, features)
    assert one.tar.tolist() == [1] * 6
    assert one.auc == 1
    assert one.tar_interval.tolist() == [0] * 6
    for rates in (many.legacy, many.probe):
        assert rates.rank.tolist() == [1, 1, 1]
        assert rates.rank_interval.tolist() == [0, 0, 0]
        assert rates.tpir.tolist() == [1, 1]
        assert rates.tpir_interval.tolist() == [0, 0]


def test_partly_wrong_features_score_what_is_worked_out_by_hand():
    # Subjects 0 and 1 are enrolled in G1, 2 and 3 in G2. Probes of 0, 1 and 3 are a few degrees off their own
    # enrolment; that of 2 lies 5° off subject 1's and 35° off its own.
    ijb = benchmark(4)
    features = templates(directions([0, 40, 80, 120, 2, 41, 45, 123]))
    many = identify(ijb, features)
    assert many.legacy.rank.tolist() == [0.75, 1, 1]
    # The highest score with another person is cos 5°, of probe 2: above it are mates at 2°, 1° and 3°.
    assert many.legacy.tpir.tolist() == [0.75, 0.75]
    # The same probes as at rank 1.
    assert many.legacy.tpir_interval.tolist() == [many.legacy.rank_interval[0]] * 2
    # Each in its own gallery: probe 2 is 35° from its mate, 75° from subject 3.
    assert many.probe.rank.tolist() == [1, 1, 1]
    # G1 does not know probes 2 and 3: threshold cos 5°, both mates above. G2 does not know probes 0 and 1:
    # 78° and 39°, threshold cos 39°, mates at 35° and 3°.
    assert many.probe.tpir.tolist() == [1, 1]
    # Four probes, of whom each gallery does not know two: a tenth of them is less than one.
    assert many.legacy.enough_probes.tolist() == many.probe.enough_probes.tolist() == [False, False]

    # Of the 28 pairs, four are genuine, at 2°, 1°, 35° and 3°; of the others 4° (probes 1 and 2) and 5° are
    # the nearest, then 37°: before any false accept three genuine ones are found, the fourth after two.
    one = verify(ijb, features)
    assert one.tar.tolist() == [0.75] * 5 + [1]
    assert one.enough_pairs.tolist() == [False] * 5 + [True]  # of 24 none is a hundredth
    assert one.far.tolist() == pytest.approx([0] * 5 + [2 / 24])
    assert one.auc == pytest.approx((3 * 24 + 22) / 96)


def test_a_mate_that_only_meets_the_threshold_does_not_count():
    ijb = benchmark(4)
    # Probe 0 is 5° from its enrolment on one side, probe 2 on the other: highest score with another person.
    many = identify(ijb, templates(directions([0, 40, 80, 120, -5, 41, 5, 123])))
    assert many.legacy.tpir.tolist() == [0.5, 0.5]  # probes 1 and 3
    assert many.probe.tpir.tolist() == [0.5, 0.5]  # probe 1 of two in G1, probe 3 of two in G2
    half = bootstrap_mean([0, 1], [0, 1])
    assert many.probe.tpir_interval.tolist() == [np.hypot(half, half) / 2] * 2
    assert many.legacy.tpir_interval.tolist() == [bootstrap_mean([0, 1, 0, 1], np.arange(4))] * 2


def published_steps(ijb: IJB, features: np.ndarray) -> dict:
    """What the public scripts do, on whole matrices: sort, count, compare."""
    score = features @ features.T
    pairs = score[tuple(ijb.pairs.T)]
    far, tar, _ = roc_curve(ijb.same, pairs)
    far, tar = far[::-1], tar[::-1]
    numbers = {"tar": [tar[np.abs(far - wanted).argmin()] for wanted in FARS]}

    probe, who = ijb.probes.templates, ijb.probes.subjects
    enrolled = np.concatenate([gallery.templates for gallery in ijb.galleries])
    subject = np.concatenate([gallery.subjects for gallery in ijb.galleries])
    all_scores = score[np.ix_(probe, enrolled)]
    mate = subject == who[:, None]
    place = np.argmax(np.take_along_axis(mate, np.argsort(-all_scores, axis=1), axis=1), axis=1)
    numbers["legacy rank"] = [(place < rank).mean() for rank in RANKS]
    others = np.sort(all_scores[~mate])[::-1]
    cuts = [others[int(np.ceil(len(probe) * fpir)) - 1] for fpir in FPIRS]
    numbers["legacy tpir"] = [(all_scores[mate] > cut).mean() for cut in cuts]

    tpir, hits, variance = np.zeros(2), np.zeros(3), np.zeros(2)
    for gallery in ijb.galleries:
        scores = score[np.ix_(probe, gallery.templates)]
        mate = gallery.subjects == who[:, None]
        known = mate.any(axis=1)
        alarms = np.sort(scores[~known].max(axis=1))[::-1]
        cuts = [alarms[max(int(len(alarms) * fpir) - 1, 0)] for fpir in FPIRS]
        own = scores[mate]
        best_other = np.where(mate, -np.inf, scores)[known].max(axis=1)
        found = [(own > best_other) & (own > cut) for cut in cuts]
        tpir += np.mean(found, axis=1) / 2
        variance += np.square([bootstrap_mean(f, who[known]) / 2 for f in found])
        place = np.argmax(np.take_along_axis(mate, np.argsort(-scores, axis=1), axis=1), axis=1)
        hits += [(place[known] < rank).sum() for rank in RANKS]
    numbers |= {"probe rank": hits / len(probe), "probe tpir": tpir}
    return numbers | {"probe interval": np.sqrt(variance)}


@pytest.mark.parametrize("noise", [0.5, 1.0, 30.0])
def test_random_features_score_what_the_published_steps_give(noise):
    rng = np.random.default_rng(int(10 * noise))
    ijb = benchmark(40, probes_each=3)
    people = np.concatenate([rng.normal(size=(40, 12))] * 4)
    features = templates(people + noise * rng.normal(size=people.shape))
    expected = published_steps(ijb, features.features)
    one, many = verify(ijb, features), identify(ijb, features)
    assert np.allclose(one.tar, expected["tar"])
    assert [found.right.mean() for found in one.outcomes.values()] == pytest.approx(one.tar)
    assert [found.right.mean() for found in many.probe.outcomes.values()] == pytest.approx(many.probe.rank)
    for definition, rates in (("legacy", many.legacy), ("probe", many.probe)):
        assert np.allclose(rates.rank, expected[f"{definition} rank"])
        assert np.allclose(rates.tpir, expected[f"{definition} tpir"])
    assert np.allclose(many.probe.tpir_interval, expected["probe interval"])
    assert 0 < many.legacy.rank_interval.max() < 0.3


@pytest.mark.parametrize("convention", ["N1D1F1", "N1D0F1", "N0D1F1", "N0D0F0", "N1D1F0"])
def test_a_dead_network_scores_0_on_templates_of_different_sizes(convention):
    rng = np.random.default_rng(0)
    ijb = benchmark(30)
    images = np.repeat(np.arange(60), rng.integers(1, 9, 60))  # the template of each image
    ijb = replace(
        ijb,
        templates=images,
        media=rng.integers(0, 3, len(images)),
        detector_scores=rng.uniform(0.5, 1, len(images)),
    )
    one = np.tile(rng.normal(size=(1, 64)).astype(np.float32), (len(images), 1))
    made = build_templates(ijb, one, 0.7 * one, convention_of(convention))
    assert np.linalg.norm(made.features, axis=1) == pytest.approx(np.ones(60))
    found, many = verify(ijb, made), identify(ijb, made)
    assert found.tar.tolist() == [0] * 6
    for rates in (many.legacy, many.probe):
        assert (rates.rank.tolist(), rates.tpir.tolist()) == ([0, 0, 0], [0, 0])


def test_a_dead_network_identifies_nobody():
    many = identify(benchmark(30), templates(np.ones((60, 3))))
    assert many.legacy.tpir.tolist() == many.probe.tpir.tolist() == [0, 0]
    assert many.legacy.rank.tolist() == many.probe.rank.tolist() == [0, 0, 0]


def test_subjects_are_what_genuine_pairs_join():
    ijb = benchmark(5, probes_each=2)
    first, second = ijb.pairs.T
    subjects = subjects_of(ijb, 15, first, second)
    assert np.array_equal(subjects[:, 0] == subjects[:, 1], ijb.same)
    assert len(np.unique(subjects)) == 5


# -------------------------------------------------------------------------------------------- the conventions


def test_each_switch_weighs_the_images_of_a_template_as_it_says(tmp_path):
    ijb = load_ijb(write_ijb(tmp_path), "IJBC")
    rng = np.random.default_rng(1)
    plain, flip = rng.normal(size=(2, 12, 4)) * rng.uniform(1, 5, (12, 1))
    for name in ("N1D1F1", "N1D0F1", "N0D1F1", "N0D0F0"):
        keep_norm, use_detector, flip_sum = convention_of(name)
        image = plain + flip if flip_sum else plain
        image = image if keep_norm else normalise(image)
        image = image * ijb.detector_scores[:, None] if use_detector else image
        of_template_1 = ijb.templates == 1
        medias = [image[of_template_1 & (ijb.media == media)].mean(axis=0) for media in (11, 12)]
        expected = normalise(np.sum(medias, axis=0)[None])[0]
        built = build_templates(ijb, plain, flip, convention_of(name))
        assert built.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
        assert np.allclose(built.of(np.array([1]))[0], expected)


def test_conventions_go_by_name_or_by_switches():
    assert str(convention_of("insightface")) == "N1D1F1"
    assert convention_of("N1D0F1") == convention_of("adaface")
    assert str(convention_of("cvlface")) == "N0D1F1"
    with pytest.raises(ValueError, match=r"'adafase'; did you mean 'adaface'\?; allowed: .* such as N1D0F1"):
        convention_of("adafase")


# ------------------------------------------------------------------------------------------------- the script


def test_the_script_writes_the_same_numbers_twice_each_beside_its_convention(tmp_path, monkeypatch, capsys):
    write_ijb(tmp_path / "data", "IJBB"), write_ijb(tmp_path / "data", "IJBC")
    model = save_small_model(tmp_path / "model.pt")
    arguments = ("--model", model, "--data", tmp_path / "data", "--convention", "adaface", "N0D0F0")
    runs, results = [], tmp_path / "model.pt.ijb" / "results.json"
    for options in ([], ["--no-cache"]):
        run_here(monkeypatch, eval_ijb.main, *arguments, *options)
        runs.append(results.read_bytes())
    assert runs[0] == runs[1]
    found, printed = json.loads(runs[0]), capsys.readouterr().out
    for name in ("IJBB", "IJBC"):
        assert list(found[name]) == ["adaface N1D0F1", "N0D0F0"]
        assert f"{name} 1:1, TAR % at FAR, of 28 pairs" in printed
        assert {f"{name.lower()}_{kind}.png" for kind in ("roc", "det", "open_set", "cmc")} <= {
            path.name for path in results.parent.iterdir()
        }
    # But at FAR .1: of TAR and of the cosine, in two runs, benchmarks, conventions.
    assert printed.count(" too few pairs |") == 5 * 2 * 8
    assert found["IJBC"]["N0D0F0"]["1:N"].keys() == {"legacy", "probe"}
    for text in (" ".join(printed.split()), (results.parent / "report.html").read_text()):
        for note in ("N1: ", "D1: ", "F1: ", "legacy: ", "probe: ", "too few pairs or probes: ", "± "):
            assert note in text


def test_without_lists_of_1_n_the_script_reports_1_1_and_says_so(tmp_path, monkeypatch, capsys):
    write_ijb(tmp_path / "data")
    for file in (tmp_path / "data/IJBC/meta").glob("*_1N_*"):
        file.unlink()
    model = save_small_model(tmp_path / "model.pt")
    run_here(monkeypatch, eval_ijb.main, "--model", model, "--data", tmp_path / "data")
    printed = capsys.readouterr().out
    assert "IJBC 1:1, TAR % at FAR, of 28 pairs" in printed
    assert "IJBC 1:N is left out: its lists ijbc_1N_*.csv are not there." in printed
    found = json.loads((tmp_path / "model.pt.ijb" / "results.json").read_text())
    assert found["IJBC"]["insightface N1D1F1"].keys() == {"1:1"}


def test_mistakes_are_reported_before_the_network_is_loaded(tmp_path, monkeypatch):
    arguments = ("--model", "none.pt", "--data", write_ijb(tmp_path / "data"))
    with pytest.raises(ValueError, match="did you mean 'adaface'"):
        run_here(monkeypatch, eval_ijb.main, *arguments, "--convention", "adafase")
    (tmp_path / "data" / "IJBC" / "loose_crop" / "3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"face_tid_mid.txt: of its 12 .* lacks 1 \(3.jpg of line"):
        run_here(monkeypatch, eval_ijb.main, *arguments)
