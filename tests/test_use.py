"""embed, verify, search, calibrate: from aligned faces to a decision, with another model's files refused."""

import csv
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from eval.calibration import FARS
from eval.embedding import embed, load_model
from eval.features import extract
from eval.identification import top_k
from eval.metrics import normalise
from eval.readers.faces import AlignedFaces
from helpers.evaluation_runs import save_small_model
from tools import calibrate, search, verify
from tools import embed as embed_script


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and 12 people of 3 images each, noise around a picture of their own."""
    folder = tmp_path_factory.mktemp("use")
    random = np.random.default_rng(0)
    for person in range(12):
        own = random.integers(0, 256, (7, 7, 3)).astype(np.float32)
        for image in range(3):
            noisy = np.clip(own + random.normal(0, 12, own.shape), 0, 255).astype(np.uint8)
            path = folder / "people" / f"p{person:02d}" / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.resize(noisy, (112, 112), interpolation=cv2.INTER_CUBIC))
    save_small_model(folder / "model.pt")
    save_small_model(folder / "other.pt", seed=1)
    return folder


def run(monkeypatch, script, *words):
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, words)])
    script.main()


def people(made):
    return sorted((made / "people").rglob("*.png"))


def test_three_lines_of_python_give_unit_embeddings_and_their_norms(made):
    paths = people(made)
    model = load_model(made / "model.pt")
    first, second = embed(model, [str(paths[0]), paths[1]]).unit
    plain, flip = extract(model, AlignedFaces(paths[:2]))
    expected = normalise(plain.astype(np.float64) + flip)
    assert np.allclose([first, second], expected, atol=1e-6)
    found = embed(model, AlignedFaces(paths)[0:2], mirror=False)
    assert np.allclose(found.unit, normalise(plain), atol=1e-6)
    assert np.allclose(found.norm, np.linalg.norm(plain, axis=1))
    both = embed(model, paths[:2]).norm
    assert np.allclose(both, (np.linalg.norm(plain, axis=1) + np.linalg.norm(flip, axis=1)) / 2)


@pytest.mark.parametrize("scale", [1, 255])
def test_float_images_are_refused_on_every_device(scale, made):
    floats = AlignedFaces(people(made))[0:2].astype(np.float32) / scale
    with pytest.raises(ValueError, match=r"images are float32 .*, expected uint8 \(N, 112, 112, 3\), RGB"):
        embed(load_model(made / "model.pt"), floats)


def test_features_that_are_not_finite_are_an_error_and_no_decision(made):
    class Overflown(torch.nn.Module):
        input_order = "RGB"

        def forward(self, images):
            return images.flatten(1)[:, :4] * torch.inf

    with pytest.raises(
        ValueError, match=r"the features of image number 0 are not finite with precision fp32"
    ):
        embed(Overflown(), np.ones((2, 112, 112, 3), np.uint8))


def test_nothing_to_embed_is_an_error(made):
    with pytest.raises(ValueError, match="there are no images to embed"):
        embed(load_model(made / "model.pt"), [])


def test_embeddings_are_kept_with_their_images_and_serve_as_a_gallery(made, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "gallery.npz"
    run(monkeypatch, embed_script, "--model", made / "model.pt", "--images", made / "people", "--out", out)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"{out}: 36 embeddings of 32 numbers, median norm ")
    norms = [float(line.split()[1]) for line in printed[1:]]
    assert norms == sorted(norms)
    with np.load(out) as file:
        assert file["paths"].tolist() == [str(path) for path in people(made)]
        expected = embed(load_model(made / "model.pt"), people(made))
        assert np.allclose(file["embeddings"], expected.unit, atol=1e-6)
        assert np.allclose(file["norm"], expected.norm)
        assert norms[0] == pytest.approx(file["norm"].min(), rel=1e-3)

    matches, probe = tmp_path / "matches.csv", people(made)[5]
    arguments = ["--model", made / "model.pt", "--gallery", out, "--probes", probe, "--top", 3]
    run(monkeypatch, search, *arguments, "--out", matches)
    rows = list(csv.DictReader(matches.open()))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert (rows[0]["probe"], rows[0]["match"], rows[0]["cosine"]) == (str(probe), str(probe), "1.0000")
    for wrong, message in (
        (
            ["--model", made / "other.pt", *arguments[2:]],
            r"is of another model, .*model\.pt \(sha256 .*, here .*\): embed again",
        ),
        ([*arguments, "--no-mirror"], "was made with mirror True, not False: embed again"),
    ):
        with pytest.raises(ValueError, match=message):
            run(monkeypatch, search, *wrong)


def test_the_best_entries_come_by_score_and_equal_ones_in_the_order_of_the_gallery():
    random = np.random.default_rng(0)
    probes, gallery = (normalise(random.normal(size=(count, 8))) for count in (9, 40))
    gallery[[7, 30]] = gallery[2]  # three equal entries
    scores, entries = top_k(probes, gallery, 5, chunk=4)
    for probe, score, entry in zip(probes, scores, entries):
        expected = sorted(range(40), key=lambda i: (-(probe @ gallery[i]).round(12), i))[:5]
        assert entry.tolist() == expected
        assert np.allclose(score, gallery[expected] @ probe)
    assert top_k(probes, gallery[:2], 5)[1].shape == (9, 2)
    assert top_k(gallery[2:3], gallery, 3)[1].tolist() == [[2, 7, 30]]


def calibrated(made, tmp_path, monkeypatch, *words):
    out = tmp_path / "calibration.json"
    run(monkeypatch, calibrate, "--model", made / "model.pt", "--out", out, *words)
    return out


@pytest.fixture(scope="module")
def of_people(made) -> tuple[Path, str]:
    """The calibration with all people, and what was printed."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        path = calibrated(made, made, patch, "--people", made / "people")
    return path, printed.getvalue()


def test_a_decision_follows_from_people_s_own_photographs(made, of_people, monkeypatch, capsys):
    path, printed = of_people
    assert printed.startswith("594 pairs of different people from 36 images\n")  # 36 · 35 / 2 less 12 · 3
    content = json.loads(path.read_text())
    unit = embed(load_model(made / "model.pt"), people(made)).unit
    ids = np.arange(36) // 3
    cosines = (unit @ unit.T)[np.triu_indices(36, 1)]
    different = (ids[:, None] != ids)[np.triu_indices(36, 1)]
    (threshold,) = [row for row in content["thresholds"] if row["far"] == 0.01]
    assert threshold["cosine"] == pytest.approx(np.sort(cosines[different])[::-1][4], abs=1e-6)
    accepted = 100 * np.mean(cosines[~different] >= threshold["cosine"])
    table = [line.split("|") for line in printed.splitlines() if line.startswith("|")]
    shown = {cells[1].strip(): cells[3].strip() for cells in table}
    assert (shown["0.01"], shown["0.001"]) == (f"{accepted:.2f}", "")
    assert [r["cosine"] for r in content["thresholds"][-3:]] == [None] * 3

    for images in ((0, 1), (0, 4), (0, 0)):
        pair = [people(made)[index] for index in images]
        given = ["--calibration", path, "--far", "0.1"]
        run(monkeypatch, verify, "--model", made / "model.pt", *pair, *given)
        lines = capsys.readouterr().out.splitlines()
        cosine = float(unit[images[0]] @ unit[images[1]])
        assert lines[2] == f"cosine {cosine:.4f}"
        # What is decided follows from the numbers alone: an untrained network may be wrong.
        decided = cosine >= content["thresholds"][0]["cosine"]
        assert lines[3].startswith("the same person  (" if decided else "different people  (")
        assert "at FAR 0.1, of 594 pairs" in lines[3]
    run(monkeypatch, verify, "--model", made / "model.pt", *people(made)[:2])
    assert capsys.readouterr().out.splitlines()[-1].startswith("no decision without --calibration")


def test_a_search_names_only_those_above_the_threshold(made, of_people, tmp_path, monkeypatch, capsys):
    path, _ = of_people
    least = json.loads(path.read_text())["thresholds"][1]["cosine"]
    out = tmp_path / "m.csv"
    arguments = ["--model", made / "model.pt", "--gallery", *people(made)[::3], "--probes"]
    decide = ["--calibration", path, "--far", "1e-2", "--out", out]
    run(monkeypatch, search, *arguments, made / "people", *decide)
    rows = list(csv.DictReader(out.open()))
    assert len({row["probe"] for row in rows}) == 36
    assert all((row["rank"] == "0") != bool(row["match"]) for row in rows)
    assert min(float(row["cosine"]) for row in rows if row["match"]) >= least - 1e-4
    text = capsys.readouterr().out
    assert f"of 36 probes have a match (cosine ≥ {least:.4f}, FAR 0.01 for one pair)" in text
    assert "the first 20 of 36 probes" in text


def test_strangers_and_lists_of_pairs_calibrate_too(made, tmp_path, monkeypatch, capsys):
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    for index, path in enumerate(people(made)[::3]):
        (strangers / f"{index}.png").write_bytes(path.read_bytes())
    content = json.loads(calibrated(made, tmp_path, monkeypatch, "--different", strangers).read_text())
    assert (content["pairs"], content["people"]) == (66, 12)
    assert "same person" not in capsys.readouterr().out
    pairs = tmp_path / "pairs.csv"
    names = [str(path.relative_to(made)) for path in people(made)]
    rows = [(names[0], names[1], 1)] + [(names[0], names[i], 0) for i in range(3, 30)]
    pairs.write_text("".join(f"{a},{b},{same}\n" for a, b, same in rows))
    path = calibrated(made, tmp_path, monkeypatch, "--pairs", pairs, "--images", made)
    content = json.loads(path.read_text())
    assert content["pairs"] == 27
    assert content["data"]["same_person_pairs"] == 1
    assert [row["far"] for row in content["thresholds"]] == FARS.tolist()


def test_mistakes_are_one_clear_line(made, of_people, tmp_path, monkeypatch):
    path, _ = of_people
    (tmp_path / "text.json").write_text("{}")
    (tmp_path / "text.npz").write_text("no archive")
    big = tmp_path / "big.jpg"
    cv2.imwrite(str(big), np.zeros((300, 200, 3), np.uint8))
    pair, model = people(made)[:2], ["--model", made / "model.pt"]
    for script, words, message in (
        (verify, [*model, *pair, "--far", "1e-3"], r"--far 0\.001 takes --calibration: tools/calibrate"),
        (verify, [*model, *pair, "--calibration", path], "594 pairs .* FAR 0.001 takes 1,000 or more"),
        (
            verify,
            [*model, *pair, "--calibration", path, "--far", "0.3"],
            "no threshold at FAR 0.3; it has 0.1",
        ),
        (verify, [*model, *pair, "--calibration", tmp_path / "text.json"], "no file of tools/calibrate.py"),
        (verify, ["--model", made / "other.pt", *pair, "--calibration", path], "do not hold here, calibrate"),
        (verify, [*model, pair[0], big], r"big\.jpg is 200x300, expected .*tools/align\.py .*docs/use\.md"),
        (verify, [*model, pair[0], tmp_path / "none.jpg"], "images these are missing"),
        (search, [*model, "--gallery", tmp_path / "text.npz", "--probes", big], "no file of tools/embed.py"),
        (search, [*model, "--gallery", tmp_path / "text.npz", big, "--probes", big], "given with others"),
        (search, [*model, "--gallery", tmp_path / "nowhere", "--probes", big], "no image or folder"),
        (search, [*model, "--gallery", made, "--probes", big, "--top", 0], "--top is 0, allowed: 1 or more"),
        (embed_script, [*model, "--images", big, "--out", "x.txt"], r"allowed is NAME\.npz"),
        (calibrate, [*model, "--people", made / "people" / "p00", "--out", "x"], "is in no person's folder"),
        (calibrate, [*model, "--pairs", path, "--out", "x"], "--pairs and --images go together"),
        (calibrate, [*model, "--different", tmp_path / "empty", "--out", "x"], "no image or folder"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(monkeypatch, script, *words)
