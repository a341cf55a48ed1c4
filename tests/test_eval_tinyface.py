"""TinyFace: ranks worked out by hand and by a plain argsort; the tree, sound and broken; the script."""

import shutil

import numpy as np
import pytest
from scipy.io import savemat

from backbones import load_backbone
from eval import eval_tinyface
from eval.eval_tinyface import DISTRACTOR, RANKS, evaluate, read_tree
from eval.features import extract
from eval.metrics import normalise
from eval.readers.faces import AlignedFaces
from helpers.evaluation_runs import ROOT, run, save_small_model
from helpers.tinysurv_trees import (
    TINYFACE,
    cells,
    directions,
    results_in,
    run_here,
    write_image,
    write_tinyface,
)

# ----------------------------------------------------------------------------------------------- the protocol


def test_perfect_features_are_found_at_once():
    ids = np.array([1, 2, 3])
    gallery = np.concatenate([np.eye(4)[:3], np.eye(4)[3:].repeat(30, axis=0)])
    result = evaluate(np.eye(4)[:3], gallery, ids, np.concatenate([ids, np.full(30, DISTRACTOR)]))
    assert (result.rate == 1).all()
    assert (result.interval == 0).all()
    assert (result.cmc == 1).all()


def test_partly_wrong_features_score_what_is_worked_out_by_hand():
    gallery = directions([10, 5, 40, 90, 3, -8, 91])
    gallery_ids = [1, 2, 1, 3, DISTRACTOR, DISTRACTOR, DISTRACTOR]
    # Nearer than the nearest mate are: 5, 3 and -8 | 10 | none | none | 3, -8, 5, 10 and 40.
    probes, ids = directions([0, 20, 89, 39, -2]), [1, 2, 3, 1, 3]
    result = evaluate(probes, gallery, np.array(ids), np.array(gallery_ids))  # ranks 4, 2, 1, 1, 6
    assert result.rate.tolist() == [0.4, 0.8, 1]
    assert result.cmc[:7].tolist() == [0.4, 0.6, 0.6, 0.8, 0.8, 1, 1]
    assert result.interval[0] > 0 == result.interval[2]


def plain_ranks(probes, gallery, probe_ids, gallery_ids):
    """The public way: the whole matrix of scores, sorted; place of the first mate, from 1."""
    order = np.argsort(-(probes @ gallery.T), axis=1)
    return 1 + np.argmax(gallery_ids[order] == probe_ids[:, None], axis=1)


@pytest.mark.parametrize("noise", [0.6, 1.0, 100.0])
def test_random_features_score_what_the_whole_sorted_matrix_says(noise):
    rng = np.random.default_rng(int(noise * 10))
    people = rng.normal(size=(40, 16))
    probe_ids = rng.integers(0, 40, 300)
    gallery_ids = np.concatenate([np.arange(40), rng.integers(0, 40, 50), np.full(400, DISTRACTOR)])
    centre = np.concatenate([people[gallery_ids[:90]], np.zeros((400, 16))])
    gallery = normalise(centre + noise * rng.normal(size=centre.shape))
    probes = normalise(people[probe_ids] + noise * rng.normal(size=(300, 16)))
    result = evaluate(probes, gallery, probe_ids, gallery_ids, seed=3)
    ranks = plain_ranks(probes, gallery, probe_ids, gallery_ids)
    assert np.allclose(result.rate, [(ranks <= rank).mean() for rank in RANKS])
    assert np.allclose(result.cmc, [(ranks <= rank).mean() for rank in range(1, 101)])
    assert 0 < result.interval.max() < 0.2


@pytest.mark.parametrize("value", [0, 1])
def test_a_network_that_always_says_the_same_finds_nobody(value):
    ids = np.arange(30)
    same = np.zeros((30, 4))
    same[:, 0] = value
    assert evaluate(same, same, ids, ids).rate.tolist() == [0, 0, 0]


# --------------------------------------------------------------------------------------------------- the tree


@pytest.fixture
def tree(tmp_path):
    return write_tinyface(tmp_path / "data")


def test_images_come_in_the_order_of_their_identities(tree):
    found = read_tree(tree)
    assert found.probe_ids.tolist() == [1, 1, 2, 30]
    assert found.gallery_ids.tolist() == [1, 2, 2, 30, *[DISTRACTOR] * 3]
    folders = [path.parent.name for path in found.paths]
    assert folders == ["Probe"] * 4 + ["Gallery_Match"] * 4 + ["Gallery_Distractor"] * 3
    assert [path.stem for path in found.paths[:5]] == ["1_1", "1_2", "2_1", "30_1", "1_3"]
    assert found.lists == ["probe_img_ID_pairs.mat", "gallery_match_img_ID_pairs.mat"]
    moved = tree / "elsewhere"
    (tree / "aligned_pad_0.1_pad_high").rename(moved)
    assert len(read_tree(tree, moved).paths) == 11


def test_lists_may_be_absent(tree):
    (tree / "tinyface/Testing_Set/probe_img_ID_pairs.mat").unlink()
    assert read_tree(tree).lists == ["gallery_match_img_ID_pairs.mat"]


def lose(folder):
    def change(root):
        shutil.rmtree(root / folder)

    return change


def add(name):
    """One more image, as original and aligned."""

    def change(root):
        write_image(root / "tinyface/Testing_Set" / name, 20, seed=1)
        write_image(root / "aligned_pad_0.1_pad_high" / name, 112, seed=1)

    return change


def relist(key="probe_set", ids=(1, 1, 2, 30), names=TINYFACE["Probe"]):
    def change(root):
        rows = cells(list(zip(names, ids)))
        savemat(root / "tinyface/Testing_Set/probe_img_ID_pairs.mat", {key: rows})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose("tinyface/Testing_Set/Probe"), "no folder .*Testing_Set/Probe"),
        (lose("aligned_pad_0.1_pad_high"), "no folder .*aligned_pad_0.1_pad_high/Probe"),
        (lambda root: (root / "aligned_pad_0.1_pad_high/Probe/1_2.png").unlink(), r"lacks 1 \(1_2\) of 4"),
        (add("Probe/1_1.png"), r"Probe: .* 1 \(1_1.jpg and 1_1.png\)"),
        (add("Gallery_Match/someone.jpg"), r"Gallery_Match .*1 \(someone.jpg\)|Gallery_Match: .*\(someone\)"),
        (add("Probe/9_1.jpg"), r"does not name images that are in .*Probe: 1 \(9_1\)"),
        (relist(key="probes"), r"pairs.mat: no variable 'probe_set'; did you mean 'probes'\?"),
        (relist(ids=(1, 2, 2, 30)), "pairs.mat row 2: 1_2 has identity 2, as images of 1 have|other images"),
        (relist(ids=(1, 1, "?", 30)), "pairs.mat row 3: '.' is no identity"),
        (
            relist(names=("1_1", "1_2", "2_1", "5_5")),
            r"pairs.mat names images that are not in .*\(5_5 of row 4\)",
        ),
    ],
)
def test_a_broken_tree_is_reported_in_one_line(tree, change, message):
    change(tree)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read_tree(tree)
    assert "\n" not in str(error.value)


def test_a_probe_of_nobody_in_the_gallery_is_reported(tree):
    add("Probe/9_1.jpg")(tree)
    (tree / "tinyface/Testing_Set/probe_img_ID_pairs.mat").unlink()
    with pytest.raises(ValueError, match=r"Probe: .* no image in .*Gallery_Match: 1 \(9_1\)"):
        read_tree(tree)


# ------------------------------------------------------------------------------------------------- the script


def test_the_script_writes_what_its_features_say_and_the_same_again(tmp_path, tree, monkeypatch):
    model = save_small_model(tmp_path / "model.pt")
    command = (ROOT / "eval" / "eval_tinyface.py", "--model", model, "--data", tree, "--batch-size", 4)
    first = run(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    out = tmp_path / "model.pt.tinyface"
    results = results_in(out)
    run_here(monkeypatch, eval_tinyface.main, *command[1:])
    assert results_in(out) == results
    assert (out / "cmc.png").stat().st_size > 1000
    assert (out / "report.html").exists()

    found = read_tree(tree)
    plain, flip = extract(load_backbone(model), AlignedFaces(found.paths))
    unit = normalise(plain.astype(np.float64) + flip)
    ranks = plain_ranks(unit[:4], unit[4:], found.probe_ids, found.gallery_ids)
    assert results["rank"] == {str(rank): np.mean(ranks <= rank) for rank in RANKS}
    assert results["sizes"] == {"probes": 4, "gallery": 4, "distractors": 3, "people": 3}
    for rank, share in results["rank"].items():
        assert f"rank-{rank} %" in first.stdout
        assert f"{100 * share:.2f} ± {100 * results['interval'][rank]:.2f}" in first.stdout


def test_the_script_reports_an_unaligned_image(tmp_path, tree, monkeypatch):
    write_image(tree / "aligned_pad_0.1_pad_high/Probe/1_1.png", 96, seed=0)
    model = save_small_model(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"1_1\.png is 96x96, expected an aligned face"):
        run_here(monkeypatch, eval_tinyface.main, "--model", model, "--data", tree)
