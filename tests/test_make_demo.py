"""Demo data: the same for any number of workers, fit to train on, unseen people to verify, a real problem."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset import RecordDataset
from eval.metrics import normalise
from eval.readers import plain_pickle
from eval.verification import evaluate, load_bin
from tools.demo.album import worker_map
from tools.demo.head import Head
from tools.demo.people import TRAITS, Identity
from tools.demo.photo import look_up, photograph, pixels, rotation, visible_points
from tools.make_demo import (
    FIRST_UNSEEN,
    GOOD,
    draw_pairs,
    make_demo,
    photographs,
    write_verification_sets,
)
from utils.faces import similarity

ROOT = Path(__file__).parents[1]
TINY = dict(identities=3, images_per_identity=4, pairs=20, seed=5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    assert make_demo(folder, **TINY, workers=1)
    return folder


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------------------------------------- files


def test_every_number_of_workers_makes_the_same_files(tiny, tmp_path):
    make_demo(tmp_path, **TINY, workers=2)
    names = [file.relative_to(tiny) for file in files_of(tiny)]
    assert names == [file.relative_to(tmp_path) for file in files_of(tmp_path)]
    for name in names:
        assert (tmp_path / name).read_bytes() == (tiny / name).read_bytes(), name


def test_the_training_set_is_read_back_with_its_labels(tiny):
    dataset = RecordDataset(tiny)
    assert dataset.num_classes == 3
    assert [dataset[i][1] for i in range(len(dataset))] == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset[0][0].shape == (3, 112, 112)
    assert (tiny / "property").read_text() == "3,112,112\n"


def test_an_unchanged_request_is_not_made_twice(tiny):
    before = {file: file.stat().st_mtime_ns for file in files_of(tiny)}
    assert not make_demo(tiny, **TINY)
    assert {file: file.stat().st_mtime_ns for file in files_of(tiny)} == before


@pytest.mark.parametrize("change", [{"complete": False}, {"seed": 6}])
def test_other_settings_and_unfinished_sets_are_made_again_and_nothing_old_stays(tiny, tmp_path, change):
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    card = tmp_path / "settings.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    (tmp_path / "tinyface" / "tinyface" / "Testing_Set" / "Probe" / "9_9.jpg").touch()
    assert make_demo(tmp_path, **TINY)
    assert [file.relative_to(tmp_path) for file in files_of(tmp_path)] == [
        file.relative_to(tiny) for file in files_of(tiny)
    ]


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("train.rec", None),
        ("IJBC/meta/ijbc_face_tid_mid.txt", None),
        ("IJBC/meta/ijbc_face_tid_mid.txt", {"drawn_by": "a version that made no trees"}),
    ],
)
def test_somebody_elses_data_are_left_alone(tmp_path, name, card):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    if card:
        (tmp_path / "settings.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=f"holds {name.split('/')[0]} that is not from this script"):
        make_demo(tmp_path, **TINY)
    assert (tmp_path / name).read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("identities", 1), ("images_per_identity", 0), ("pairs", 30), ("pairs", 0), ("seed", -1)],
)
def test_sizes_without_sense_are_named(tmp_path, setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value}"):
        make_demo(tmp_path / "new", **(TINY | {setting: value}))
    assert not (tmp_path / "new").exists()


def test_the_script_runs_from_anywhere_and_tells_mistakes_in_one_line(tmp_path):
    def run(*arguments):
        command = [sys.executable, ROOT / "tools" / "make_demo.py", "--out", "here", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    small = ("--identities", "2", "--images-per-identity", "1", "--pairs", "20", "--workers", "2")
    assert run(*small).returncode == 0
    assert (tmp_path / "here" / "train.rec").exists()
    assert "made already" in run(*small).stdout
    wrong = run("--pairs", "7")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: pairs=7")
    assert wrong.stderr.count("\n") == 1


# --------------------------------------------------------------------------------------------------- people


def test_each_fold_has_both_kinds_and_no_person_only_one():
    who = draw_pairs(np.random.default_rng(0), num_pairs=200, num_people=40)
    same = who[:, 0] == who[:, 1]
    assert np.array_equal(same.reshape(10, 20).sum(axis=1), [10] * 10)
    assert set(who[same].ravel()) == set(who[~same].ravel()) == set(range(40))


@pytest.mark.parametrize("name", ["demo_hq", "demo_lq"])
def test_no_photograph_is_used_twice(tiny, name):
    images, _ = plain_pickle.load((tiny / f"{name}.bin").read_bytes())
    assert len(set(images)) == len(images) == 40


def test_training_never_sees_the_people_of_the_verification_sets(tiny):
    unseen = photographs((FIRST_UNSEEN, {GOOD: 1}), TINY["seed"])[GOOD][0]
    first = load_bin(tiny / "demo_hq.bin")[0][0]
    assert np.abs(unseen.astype(int) - first).mean() < 3  # the same but for JPEG
    assert make_demo.__kwdefaults__["identities"] < FIRST_UNSEEN


def test_another_seed_makes_other_people():
    first, second = (photographs((0, {GOOD: 1}), seed)[GOOD][0].astype(int) for seed in (1, 2))
    assert np.abs(first - second).mean() > 20


def test_bad_photographs_have_less_detail():
    def detail(image):
        smooth = cv2.GaussianBlur(image, (0, 0), 1.5)  # noise is no detail
        return cv2.Laplacian(smooth, cv2.CV_32F).std()

    head = Head(Identity(np.random.default_rng(3)))
    details = [[detail(photograph(head, np.random.default_rng(i), bad)) for bad in (0, 1)] for i in range(10)]
    good, bad = np.median(details, axis=0)
    assert bad < 0.6 * good


# ------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (0.3, -0.1), (-0.6, 0.2)])
def test_a_pixel_shows_the_point_that_projects_onto_it(yaw, pitch):
    head = Head(Identity(np.random.default_rng(3)))
    projection = np.column_stack([35 * rotation(yaw, pitch)[:2], [56, 52]])
    points = visible_points(head.depth, projection)[1]
    depth = look_up(head.depth, points)
    seen = np.dstack([points, depth, np.ones_like(depth)]) @ projection.T
    error = np.abs(seen - pixels(112)).max(axis=-1)[look_up(head.skin.pixels, points)[..., 3] > 250]
    assert len(error) > 4000
    assert np.quantile(error, 0.95) < 0.5  # pixels


def test_turning_the_head_moves_the_nose_before_the_eyes():
    head = Head(Identity(np.random.default_rng(3)))
    p = head.person
    places = np.float32([[(-p.eye_x, 0), (p.eye_x, 0), (0, p.nose_y)]])
    points = np.column_stack([places[0], look_up(head.depth, places)[0]])
    left_eye, right_eye, nose = (points @ rotation(0.5, 0).T)[:, 0]
    assert nose - (left_eye + right_eye) / 2 > 0.15  # face units, to the side that the head turns to


def test_a_similarity_is_found_from_its_points():
    angle, scale, points = 0.3, 35, np.random.default_rng(0).normal(size=(5, 2))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = similarity(points, points @ turn.T + (56, 52))
    assert np.allclose(found, np.column_stack([turn, (56, 52)]))


def test_all_faces_can_be_drawn_at_the_ends_of_every_trait():
    person = Identity(np.random.default_rng(0))
    for end in (0, 1):
        for name, limits in TRAITS.items():
            setattr(person, name, limits[end])
        head = Head(person)
        for layer in (head.skin, head.hair, head.back):
            assert np.isfinite(layer.pixels).all()
            assert -0.01 <= layer.pixels.min() <= layer.pixels.max() <= 255.01


# ------------------------------------------------------------------------------------------------ the problem


@pytest.fixture(scope="module")
def verification_set(tmp_path_factory):
    """The good photographs of the default demo."""
    folder = tmp_path_factory.mktemp("problem")
    default = make_demo.__kwdefaults__
    with worker_map(workers=2) as map_tasks:
        write_verification_sets(folder, default["seed"], default["pairs"], map_tasks)
    return load_bin(folder / "demo_hq.bin")


def shrunk(images):
    return np.stack([cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA) for image in images])


def equalised(images):
    grey = shrunk(images).mean(axis=-1)
    centred = grey - grey.mean(axis=(1, 2), keepdims=True)
    return centred / centred.std(axis=(1, 2), keepdims=True)


SHORTCUTS = {
    "all pixels": lambda images: images[:, ::2, ::2],
    "few pixels": shrunk,
    "few pixels without brightness and contrast": equalised,
    "mean colour": lambda images: images.mean(axis=(1, 2)),
    "mean colour of the face": lambda images: images[:, 35:95, 35:77].mean(axis=(1, 2)),
    "background": lambda images: np.concatenate([shrunk(images)[:, :, 0], shrunk(images)[:, :, -1]], axis=1),
    "colour at the place of the hair": lambda images: images[:, :10, 20:92].mean(axis=(1, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_people_are_not_told_apart_without_looking_at_faces(verification_set, shortcut):
    """The trained network exceeds 0.90 (configs/demo.py). Guessing gets 0.50."""
    images, issame = verification_set
    features = SHORTCUTS[shortcut](images).reshape(len(images), -1).astype(np.float64)
    accuracy = evaluate(normalise(features - features.mean(axis=0)), issame).mean
    print(shortcut, accuracy)
    assert accuracy < 0.72
