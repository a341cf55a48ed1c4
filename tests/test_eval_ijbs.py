"""IJB-S: numbers worked out by hand and by whole matrices; templates against means of frames; the script."""

import json

import numpy as np
import pytest

from backbones import load_backbone
from eval import eval_ijbs
from eval.features import extract
from eval.ijbs.data import Protocol, read_protocols
from eval.ijbs.frames import sighting_of
from eval.ijbs.protocol import RANKS, evaluate, sum_sightings, templates_of_sightings
from eval.metrics import normalise
from eval.readers.faces import AlignedFaces
from eval.run import Evaluation
from helpers.evaluation_runs import ROOT, run, save_small_model
from helpers.ijbs_trees import frames, write_ijbs
from helpers.tinysurv_trees import directions, write_image

# ------------------------------------------------------------------------------------------- one protocol


def search_among(num_probes: int, num_first: int, num_second: int) -> Protocol:
    """Templates: the probes, then G1, then G2."""
    numbers = np.arange(num_probes + num_first + num_second)
    probes, first, second = np.split(numbers, np.cumsum([num_probes, num_first]))
    return Protocol("by hand", probes, (first, second))


def test_perfect_features_are_found_at_any_threshold():
    subjects = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3])  # three probes each of 1 and 2 in G1, 3 in G2
    people = np.eye(3)[subjects - 1]
    result = evaluate(people, subjects, search_among(6, 2, 1))
    assert result.num_mated == 6
    for share in (result.rate, result.tpir, result.cmc):
        assert (share == 1).all()
    assert (result.fpir == 0).all()
    assert (result.rate_interval == 0).all()
    assert (result.tpir_interval == 0).all()


def by_hand():
    """G1 at 0 and 40, G2 at 90 and 130 degrees; ten probes: 9 is enrolled nowhere, the last has no face."""
    gallery, enrolled = [0, 40, 90, 130], [1, 2, 3, 4]
    probes = [(5, 1), (25, 1), (41, 2), (88, 2), (91, 3), (50, 3), (128, 4), (200, 4), (60, 9), (0, 1)]
    features = np.concatenate([directions([angle for angle, _ in probes]), directions(gallery)])
    features[9] = 0
    return features, np.array([who for _, who in probes] + enrolled), search_among(10, 2, 2)


def test_partly_wrong_features_score_what_is_worked_out_by_hand():
    result = evaluate(*by_hand())
    # Others nearer than the mate: none | 40 | none | 90 and 130 | none | 40 | none | none | all tie.
    assert result.num_mated == 9
    assert result.rate == pytest.approx([5 / 9, 1, 1])
    assert result.cmc[:4] == pytest.approx([5 / 9, 7 / 9, 8 / 9, 1])
    # G1: strangers are 51, 10, 88, 160 and 20 away. int(.1 x 5) = 0 may pass: nearer than 10 and first are
    # 5 and 41, of five. G2: strangers are 85, 65, 49, 2 and 30 away, and without a face. int(.1 x 6) = 0
    # may pass: nearer than 2 is 91, but not 128, of four.
    assert result.tpir == pytest.approx([(2 / 5 + 1 / 4) / 2] * 2)
    assert (result.fpir == 0).all()


def test_a_score_that_meets_the_threshold_counts_and_false_alarms_are_rounded_down():
    strangers = np.arange(10, 200, 10)  # 19, of whom int(.1 x 19) = 1 may pass, int(.01 x 19) = 0
    probes = [(10, 1), (11, 1), *((angle, 2) for angle in strangers)]
    features = directions([angle for angle, _ in probes] + [0, 300])
    subjects = np.array([who for _, who in probes] + [1, 2])
    result = evaluate(features, subjects, search_among(21, 1, 1))
    # G1, at 0: the nearest stranger is at 10; 1's probe at 10 meets that threshold, the one at 11 does not.
    # G2, at 300: of the strangers, at 10 and 11, none may pass; 2's nearest, at 10 too, is not above them.
    assert result.tpir == pytest.approx([0, 0.5 / 2])
    assert result.fpir == pytest.approx([0, (1 / 19) / 2])


def test_an_empty_template_is_never_the_first():
    features, subjects, protocol = by_hand()
    features[10:] = 0  # nothing was found in any gallery
    result = evaluate(features, subjects, protocol)
    assert result.rate[0] == 0
    assert (result.tpir == 0).all()
    assert evaluate(np.zeros_like(features), subjects, protocol).rate[0] == 0


def whole_matrices(features, subjects, protocol):
    """The public way, but ties against the probe: all scores, in order; rank-k, TPIR at 1 % and 10 %."""

    def scores_in(gallery):
        same = subjects[protocol.probes][:, None] == subjects[gallery]
        return features[protocol.probes] @ features[gallery].T, same

    def places(scores, same):
        order = np.lexsort([same, -scores])  # by score, others first
        return np.array([np.flatnonzero(s[o])[0] for s, o in zip(same, order)])

    scores, same = scores_in(np.concatenate(protocol.galleries))
    mated = same.any(axis=1)
    rates = [(places(scores[mated], same[mated]) < rank).mean() for rank in (1, 5, 10)]
    tpir = np.zeros(2)
    for gallery in protocol.galleries:
        scores, same = scores_in(gallery)
        mated = same.any(axis=1)
        best = np.sort(scores[~mated].max(axis=1))[::-1]
        first = places(scores[mated], same[mated]) == 0
        for i, fpir in enumerate((0.01, 0.1)):
            count = int(len(best) * fpir)
            threshold = best[count - 1] if count else best[0] + 1e-8
            tpir[i] += (first & (scores[mated][same[mated]] >= threshold)).mean() / 2
    return rates, tpir


@pytest.mark.parametrize("noise", [0.2, 0.5, 100])
def test_random_features_score_what_whole_matrices_say(noise):
    rng = np.random.default_rng(int(10 * noise))
    people = normalise(rng.normal(size=(60, 16)))
    probed = rng.integers(0, 60, 500)
    subjects = np.concatenate([probed, rng.permutation(50)])  # ten people are enrolled nowhere
    features = normalise(people[subjects] + noise * rng.normal(size=(550, 16)))
    features[rng.integers(0, 550, 20)] = 0
    protocol = search_among(500, 24, 26)
    result = evaluate(features, subjects, protocol, seed=1)
    rates, tpir = whole_matrices(features, subjects, protocol)
    assert result.num_mated == (probed < 50).sum() < 500
    assert result.rate == pytest.approx(rates)
    assert result.cmc[RANKS - 1] == pytest.approx(rates)
    assert result.tpir == pytest.approx(tpir)
    assert 0 < result.rate_interval.max() < 0.2
    assert 0 < result.tpir_interval.max() < 0.2
    assert (result.fpir <= [0.01, 0.1]).all()


# ---------------------------------------------------------------------------------------------- templates


def test_a_template_is_the_unit_mean_of_its_frames():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 8)).astype(np.float32) * rng.uniform(1, 30, (40, 1)).astype(np.float32)
    sighting = np.sort(rng.choice([0, 1, 3, 4], 40))  # 2 and 5 have no frame
    parts, starts = np.array([0, 1, 3, 2, 4, 2, 5]), np.array([0, 1, 3, 4, 6])  # 0 | 1 3 | 2 | 4 2 | 5
    for cut in (0, 1, 17, 40):  # in two parts, as a run that goes part by part
        halves = (slice(0, cut), slice(cut, 40))
        sums = sum(sum_sightings(features[half], sighting[half], 6) for half in halves)
        found = templates_of_sightings(sums, parts, starts)
        for template, members in zip(found, ([0], [1, 3], [2], [4, 2], [5])):
            chosen = features[np.isin(sighting, members)].astype(np.float64)
            mean = chosen.mean(axis=0) if len(chosen) else np.zeros(8)
            assert template == pytest.approx(mean / (np.linalg.norm(mean) or 1), abs=1e-12)


def test_templates_of_a_dead_network_are_equal_to_the_bit_and_0_without_a_face():
    one = np.random.default_rng(0).normal(size=64).astype(np.float32)
    sums = sum_sightings(np.tile(one, (40, 1)), np.sort(np.arange(40) % 7), 8)  # 7 has no frame
    parts, starts = np.arange(8), np.array([0, 1, 3, 6, 7])
    found = templates_of_sightings(sums, parts, starts, dead=True)
    assert (found[:4] == found[0]).all()
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1, 1, 1, 0])


# --------------------------------------------------------------------------------------------- the script


@pytest.fixture
def tree(tmp_path):
    return write_ijbs(tmp_path / "data")


@pytest.fixture
def run_main(monkeypatch):
    """The script in this process: to start another one takes seconds."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["eval_ijbs.py", *map(str, arguments)])
        eval_ijbs.main()

    return call


def numbers(out) -> dict:
    """results.json, without the state of the repository, which may change in the meantime."""
    results = json.loads((out / "results.json").read_text())
    del results["git"]
    return results


def check_numbers(results, features, ijbs):
    """Against whole matrices, on templates that are sums over their frames; no face is a fact of the tree."""
    of_frame = [ijbs.sightings[sighting_of(name)] for name in frames()]
    ends = [*ijbs.starts[1:], len(ijbs.parts)]
    sums = [features[np.isin(of_frame, ijbs.parts[a:b])].sum(axis=0) for a, b in zip(ijbs.starts, ends)]
    templates = normalise(np.array(sums))
    for protocol in ijbs.protocols:
        rates, tpir = whole_matrices(templates, ijbs.subjects, protocol)
        assert [*results[protocol.name]["rank"].values()] == pytest.approx(rates)
        assert [*results[protocol.name]["tpir"].values()] == pytest.approx(tpir)
    sizes = {"frames": len(frames()), "unused": 0, "templates": len(ijbs.subjects), "without_face": 1}
    assert results["sizes"] == sizes
    # 50 in videos/3 has no face at all; 40 has another booking photograph, and 50 another video.
    assert results["surveillance-to-booking"]["without_face"] == {"probes": 1, "galleries": 0}
    assert results["multi-view-surveillance-to-booking"]["without_face"] == {"probes": 0, "galleries": 0}


def test_the_script_writes_what_its_features_say_and_the_same_again(tmp_path, tree, run_main):
    model = save_small_model(tmp_path / "model.pt")
    arguments = ("--model", model, "--data", tree, "--batch-size", 8)
    first = run(ROOT / "eval" / "eval_ijbs.py", *arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    out = tmp_path / "model.pt.ijbs"
    results = numbers(out)
    ijbs = read_protocols(tree)
    plain, flip = extract(load_backbone(model), AlignedFaces([tree / name for name in frames()]))
    check_numbers(results, plain, ijbs)
    for picture in ("cmc.png", "open_set.png"):
        assert (out / picture).stat().st_size > 1000
    assert (out / "report.html").exists()
    for protocol in ijbs.protocols:
        row = next(line for line in first.stdout.splitlines() if f"| {protocol.name} " in line)
        written = results[protocol.name]
        assert f"{100 * written['rank']['5']:.2f} ± {100 * written['rank_interval']['5']:.2f}" in row
        assert row.count("too few probes") == list(written["enough_probes"].values()).count(False) == 2
        assert "{probes} + {galleries}".format(**written["without_face"]) in row

    run_main(*arguments)
    assert numbers(out) == results
    run_main(*arguments, "--flip", "--list", tree / "image_list.csv", "--out", tmp_path / "flipped")
    check_numbers(numbers(tmp_path / "flipped"), plain + flip, ijbs)


def test_mirror_images_are_seen_by_the_network_only_where_they_count(tmp_path, tree, run_main, monkeypatch):
    model = save_small_model(tmp_path / "model.pt")
    asked = []

    def features(self, faces, model=0, mirror=True):
        asked.append(mirror)
        return np.ones((len(faces), 4), np.float32), np.ones((len(faces), 4), np.float32) if mirror else None

    monkeypatch.setattr(Evaluation, "features", features)
    for options in ([], ["--flip"]):
        run_main("--model", model, "--data", tree, *options)
    assert asked == [False, True]


def test_going_part_by_part_changes_nothing(tmp_path, tree, run_main, monkeypatch):
    model = save_small_model(tmp_path / "model.pt")
    written = []
    for size in (100, 7):
        monkeypatch.setattr(eval_ijbs, "PART", size)
        run_main("--model", model, "--data", tree, "--no-cache", "--batch-size", 1)
        written.append(numbers(tmp_path / "model.pt.ijbs"))
    assert written[0] == written[1]


def test_mistakes_are_reported_before_a_network_is_loaded(tmp_path, tree, run_main):
    probes = tree / "cs6_uav_to_single-booking_probe.csv"
    sound = probes.read_text()
    probes.write_text("FILENAME\nvideo/77.mp4\n")
    arguments = ("--model", tmp_path / "none.pt", "--data", tree)
    with pytest.raises(ValueError, match=r"probe.csv line 2: file is 'video/77.mp4', expected videos/…"):
        run_main(*arguments)
    probes.write_text(sound)
    (tree / "10" / "img_90.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"image_list.csv: of its 26 .* lacks 1 \(10/img_90.jpg of line 2"
    ):
        run_main(*arguments, "--list", tree / "image_list.csv")
    with pytest.raises(FileNotFoundError, match=r"no file .*cs6_metadata.csv"):
        run_main(*arguments, "--protocols", tmp_path)


def test_what_is_left_out_of_the_probes_is_said_on_screen_and_page(tmp_path, tree, run_main, capsys):
    probes = tree / "cs6_uav_to_single-booking_probe.csv"
    unknown = [f"videos/{number}.mp4" for number in range(70, 77)]
    probes.write_text(probes.read_text() + "\n".join(unknown))
    run_main("--model", save_small_model(tmp_path / "model.pt"), "--data", tree)
    out = tmp_path / "model.pt.ijbs"
    said = "cs6_uav_to_single-booking_probe.csv: 7 (videos/70.mp4, videos/71.mp4, "
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (out / "report.html").read_text()
    assert numbers(out)["left_out"] == {probes.name: unknown}
    assert "1 templates have no face and score 0 with everything" in (out / "report.html").read_text()
    assert numbers(out)["UAV-surveillance-to-booking"]["probes"] == 3


def test_an_unaligned_frame_is_reported(tmp_path, tree, run_main):
    write_image(tree / "10" / "img_90.jpg", 96, seed=0)
    model = save_small_model(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"img_90.jpg is 96x96, expected an aligned face"):
        run_main("--model", model, "--data", tree)
