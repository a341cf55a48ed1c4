"""SurvFace: rates worked out by hand and by plain loops; the script on whole, halved and broken trees."""

import shutil

import numpy as np
import pytest
from scipy.io import savemat
from sklearn.metrics import roc_auc_score

from eval import eval_survface
from eval.bootstrap import bootstrap_mean
from eval.folds import fold_of_each, mixed_order
from eval.metrics import normalise
from eval.survface.data import read_tree
from eval.survface.protocol import FARS, FPIRS, RANKS, evaluate_pairs, evaluate_probes
from helpers.evaluation_runs import ROOT, run, save_small_model
from helpers.tinysurv_trees import cells, directions, results_in, run_here, write_image, write_survface

# ----------------------------------------------------------------------------------------------- verification


def pairs_of(positive, negative):
    """Pairs of vectors in the plane that have the given cosines: first, second, same, people."""
    cosine = np.concatenate([positive, negative])
    second = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)
    same = np.arange(len(cosine)) < len(positive)
    people = np.stack([np.arange(len(cosine)), np.arange(len(cosine))], axis=1)
    people[~same, 1] += 1
    return np.tile([1.0, 0.0], (len(cosine), 1)), second, same, people


def test_partly_wrong_pairs_score_what_is_worked_out_by_hand():
    positive = np.array([0.9, 0.8, 0.5, 0.3, 0.9, 0.8, 0.5, 0.3])
    negative = np.array([0.85, 0.6, 0.4, 0.2, 0.1, 0, -0.1, -0.2, -0.3, -0.4])
    result = evaluate_pairs(*pairs_of(positive, negative))
    # k = 3, 1, 0, 0 of ten negatives: thresholds 0.4, 0.85, and twice above all negatives.
    assert result.tpr.tolist() == [0.75, 0.25, 0.25, 0.25]
    assert result.far == pytest.approx([0.3, 0.1, 0, 0])
    assert np.allclose(result.threshold, [0.4, 0.85, 0.85, 0.85], atol=1e-4)
    assert result.auc == pytest.approx((10 + 9 + 8 + 7) / 40)
    assert (result.interval > 0).all()


def test_perfect_pairs_score_one():
    result = evaluate_pairs(*pairs_of(np.full(20, 0.9), np.full(30, 0.1)))
    assert (result.tpr == 1).all()
    assert (result.interval == 0).all()
    assert (result.auc, result.accuracy, result.std) == (1, 1, 0)


def test_one_positive_pair_of_ten_lost_costs_half_a_fold():
    positive = np.full(10, 0.9)
    positive[3] = -0.9
    result = evaluate_pairs(*pairs_of(positive, np.full(10, 0.1)))
    assert result.fold_accuracy.tolist() == [1, 1, 1, 0.5, 1, 1, 1, 1, 1, 1]
    assert result.accuracy == 0.95


def test_random_pairs_score_what_plain_loops_say():
    rng = np.random.default_rng(0)
    same = np.arange(900) < 400
    first = normalise(rng.normal(size=(900, 8)))
    second = normalise(first * same[:, None] + 0.5 * rng.normal(size=(900, 8)))
    people = rng.integers(0, 50, 900)
    people = np.stack([people, np.where(same, people, people + 1)], axis=1)
    result = evaluate_pairs(first, second, same, people)
    scores = np.sum(first * second, axis=1)
    for i, far in enumerate(FARS):
        count = int(np.round(500 * far))
        threshold = np.sort(scores[~same])[-count]
        accepted = scores[same] >= threshold if count else scores[same] > scores[~same].max()
        assert result.tpr[i] == pytest.approx(accepted.mean())
        assert result.far[i] == pytest.approx(count / 500)
    assert result.auc == pytest.approx(roc_auc_score(same, scores))
    assert 0.5 < result.accuracy < 1


@pytest.mark.parametrize(("num_same", "num_different"), [(40, 40), (53, 21), (10, 333)])
def test_each_fold_holds_a_tenth_of_each_kind_in_the_order_of_the_lists(num_same, num_different):
    same = np.arange(num_same + num_different) < num_same
    order = mixed_order(same)
    assert sorted(order) == list(range(len(same)))
    fold = fold_of_each(len(same), 10)
    for kind, number in ((same, num_same), (~same, num_different)):
        assert (np.diff(order[kind[order]]) > 0).all()
        in_fold = np.bincount(fold[kind[order]], minlength=10)
        assert np.abs(in_fold - number / 10).max() <= 1


# --------------------------------------------------------------------------------------------- identification


def test_partly_wrong_probes_score_what_is_worked_out_by_hand():
    crowd = 21  # gallery images of person 4, between a probe of person 3 and its mate
    gallery = directions([0, 40, 80, *(-60 - 0.1 * np.arange(crowd))])
    gallery_ids = np.array([1, 2, 3, *[4] * crowd])
    unmated = directions(np.arange(1, 11))  # best scores: cosines of 1, 2, ..., 10 degrees
    # Ranks 1, 1, 1, 24, 2; degrees from the mate 0.5, 1.5, 2.5, 140, 30.
    mated, ids = directions([0.5, 41.5, 82.5, -60, 30]), np.array([1, 2, 3, 3, 1])
    result = evaluate_probes(gallery, mated, unmated, gallery_ids, ids)
    # The third, second and first largest best score, and above all.
    assert np.allclose(result.threshold, np.cos(np.deg2rad([3, 2, 1, 1])), atol=2e-5)
    assert result.tpir.tolist() == [0.6, 0.4, 0.2, 0.2]
    assert result.fpir == pytest.approx([0.3, 0.2, 0.1, 0])
    assert result.rate.tolist() == [0.6, 0.8, 0.8, 0.8]
    assert result.cmc[[0, 1, 22, 23]].tolist() == [0.6, 0.8, 0.8, 1]


def test_a_mate_that_scores_high_counts_only_among_the_twenty_best():
    gallery = directions([10, *(0.1 * np.arange(21))])
    result = evaluate_probes(
        gallery, directions([0]), directions([100]), np.array([1, *[2] * 21]), np.array([1])
    )
    assert result.rate.tolist() == [0, 0, 0, 0]
    assert result.tpir.tolist() == [0, 0, 0, 0]
    gallery = gallery[:-2]
    result = evaluate_probes(
        gallery, directions([0]), directions([100]), np.array([1, *[2] * 19]), np.array([1])
    )
    assert result.rate.tolist() == [0, 0, 0, 1]
    assert result.tpir.tolist() == [1, 1, 1, 1]


def test_perfect_probes_score_one():
    eye = np.eye(5)
    result = evaluate_probes(eye[:3], eye[:3], eye[3:], np.arange(3), np.arange(3))
    assert (result.tpir == 1).all()
    assert (result.rate == 1).all()


@pytest.mark.parametrize("noise", [0.4, 1.0, 100.0])
def test_random_probes_score_what_the_whole_matrix_says(noise):
    rng = np.random.default_rng(int(noise * 10))
    people = rng.normal(size=(60, 16))

    def noisy(ids):
        return normalise(people[ids] + noise * rng.normal(size=(len(ids), 16)))

    gallery_ids = np.concatenate([np.arange(40), rng.integers(0, 40, 160)])
    mated_ids, unmated_ids = rng.integers(0, 40, 150), rng.integers(40, 60, 120)
    gallery, mated, unmated = noisy(gallery_ids), noisy(mated_ids), noisy(unmated_ids)
    result = evaluate_probes(gallery, mated, unmated, gallery_ids, mated_ids, seed=1)

    scores = mated @ gallery.T
    is_mate = gallery_ids == mated_ids[:, None]
    place = np.argsort(np.argsort(-scores, axis=1), axis=1)  # from 0
    strangers = np.sort((unmated @ gallery.T).max(axis=1))
    for i, fpir in enumerate(FPIRS):
        threshold = strangers[-int(np.round(120 * fpir))]
        found = (is_mate & (place < 20) & (scores >= threshold)).any(axis=1)
        assert result.tpir[i] == found.mean()
        assert result.tpir_interval[i] == bootstrap_mean(found, mated_ids, seed=1)
        assert result.fpir[i] == pytest.approx(np.round(120 * fpir) / 120)
    for i, rank in enumerate(RANKS):
        assert result.rate[i] == (is_mate & (place < rank)).any(axis=1).mean()


# --------------------------------------------------------------------------------------------------- the tree


@pytest.fixture
def tree(tmp_path):
    return write_survface(tmp_path / "data", num_pairs=10)


def test_both_halves_are_read_from_their_lists_and_folders(tree):
    pairs, probes, missing = read_tree(tree)
    assert missing == []
    assert len(pairs.paths) == 20
    assert pairs.same.tolist() == [True] * 10 + [False] * 10
    names = [(pairs.paths[a].stem, pairs.paths[b].stem) for a, b in zip(pairs.first, pairs.second)]
    assert names[3] == ("3_cam1_1", "3_cam2_1")
    assert names[19] == ("9_cam1_1", "0_cam2_1")
    assert pairs.people[19].tolist() == ["9", "0"]
    assert probes.gallery_ids.tolist() == [10001, 10001, 10002]
    assert probes.mated_ids.tolist() == [10001, 10002]
    assert probes.num_unmated == 3
    assert [path.parent.name for path in probes.paths[2:6]] == [
        "gallery",
        "mated_probe",
        "mated_probe",
        "unmated_probe",
    ]


def lists(root):
    return root / "QMUL-SurvFace" / "Face_Verification_Test_Set"


def originals(root):
    return root / "QMUL-SurvFace" / "Face_Identification_Test_Set"


def test_a_half_that_is_not_there_is_left_out_and_named(tree):
    shutil.rmtree(tree / "surv_align")
    pairs, probes, missing = read_tree(tree)
    assert (pairs is None, probes is None) == (False, True)
    assert [line.split(":")[0] for line in missing] == ["identification is left out"]
    shutil.rmtree(lists(tree))
    with pytest.raises(FileNotFoundError, match=r"no half of QMUL-SurvFace: verification .* identification"):
        read_tree(tree)


def test_a_half_that_was_asked_for_has_to_be_there(tree):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere/gallery"):
        read_tree(tree, aligned=tree / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        read_tree(tree, verification_images=tree / "nowhere")


def relist(name, *pairs, key=None):
    def change(root):
        savemat(lists(root) / f"{name}.mat", {key or name: cells(pairs)})

    return change


def write(folder, name):
    """One more gallery image or probe, as original and aligned."""

    def change(root):
        write_image(originals(root) / folder / name, 20, seed=0)
        write_image(root / "surv_align" / folder / name, 112, seed=0)
        for mat in originals(root).glob("*.mat"):
            mat.unlink()

    return change


POSITIVE, NEGATIVE = "positive_pairs_names", "negative_pairs_names"
GOOD = ("1_cam1_1.jpg", "1_cam2_1.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (lists(root) / f"{NEGATIVE}.mat").unlink(), f"no list .*{NEGATIVE}.mat"),
        (relist(POSITIVE, GOOD, key="pairs"), f"no variable '{POSITIVE}' .it holds pairs"),
        (relist(POSITIVE, (*GOOD, "c.jpg")), f"'{POSITIVE}' is 1 x 3"),
        (relist(POSITIVE, GOOD, ("1_cam1_1.jpg", 7)), f"{POSITIVE}.mat row 2: 7 is no file name"),
        (
            relist(POSITIVE, GOOD, ("1_a.jpg", "2_b.jpg")),
            f"{POSITIVE}.mat row 2: 1_a and 2_b are different people",
        ),
        (relist(NEGATIVE, ("1_a.jpg", "2_b.jpg"), GOOD), f"{NEGATIVE}.mat row 2: .* are the same person"),
        (
            relist(POSITIVE, GOOD, ("1_x.jpg", "1_cam1_1.jpg"), ("1_x.jpg", "1_y.jpg")),
            rf"lacks 2 \(1_x of {POSITIVE}.mat row 2, 1_y of {POSITIVE}.mat row 3\)",
        ),
        (relist(NEGATIVE, ("1_cam1_1.jpg", "2_z.jpg")), rf"lacks 1 \(2_z of {NEGATIVE}.mat row 1\)"),
        (write("gallery", "10001_cam1_1.png"), r"gallery: .*1 \(10001_cam1_1.jpg and 10001_cam1_1.png\)"),
        (write("mated_probe", "10003_cam1_1.jpg"), r"no image in .*gallery: 1 \(10003_cam1_1\)"),
        (write("mated_probe", "distractors_9.jpg"), r"mated_probe: names .* 1 \(distractors_9\)"),
        (lambda root: shutil.rmtree(originals(root) / "gallery"), "no folder .*gallery"),
        (lambda root: shutil.rmtree(root / "surv_align" / "unmated_probe"), "no folder .*unmated_probe"),
    ],
)
def test_a_broken_tree_is_reported_in_one_line(tree, change, message):
    change(tree)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read_tree(tree)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------- the script


def test_the_script_evaluates_both_halves_and_writes_the_same_again(tmp_path, tree, monkeypatch):
    model = save_small_model(tmp_path / "model.pt")
    command = (ROOT / "eval" / "eval_survface.py", "--model", model, "--data", tree, "--out", "out")
    first = run(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    results = results_in(tmp_path / "out")
    run_here(monkeypatch, eval_survface.main, *command[1:5], "--out", tmp_path / "out")
    assert results_in(tmp_path / "out") == results
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "roc.png",
        "det.png",
        "open_set.png",
        "cmc.png",
        "report.html",
    }
    assert results["missing"] == []
    tpr = results["verification"]["tpr"][0]
    assert f"{100 * tpr:.2f} ± {100 * results['verification']['interval'][0]:.2f}" in first.stdout
    assert results["identification"]["gallery"] == 3
    for text in (first.stdout, (tmp_path / "out" / "report.html").read_text()):
        assert "accuracy %, ± fold std" in text  # beside half widths of intervals
        assert "accuracy ± the standard deviation over the 10 folds" in " ".join(text.split())
    words = ("AUC", "accuracy", "TPIR20", "@FPIR=0.3", "@FAR=0.001", "rank-20 %")
    assert all(word in first.stdout for word in words)


def test_the_script_says_which_half_is_missing(tmp_path, tree, monkeypatch, capsys):
    shutil.rmtree(lists(tree))
    model = save_small_model(tmp_path / "model.pt")
    run_here(monkeypatch, eval_survface.main, "--model", model, "--data", tree)
    assert "verification is left out" in " ".join(capsys.readouterr().out.split())
    results = results_in(tmp_path / "model.pt.survface")
    assert len(results["missing"]) == 1
    assert "verification" not in results
    assert "identification" in results
