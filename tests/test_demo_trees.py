"""Demo trees: complete, in the official layouts, of nobody who is trained on; landmarks are on the faces."""

from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import loadmat

from tools.demo.album import worker_map
from tools.demo.head import Head
from tools.demo.people import Identity
from tools.demo.photo import loose_crop, photograph
from tools.demo.tree_ijb import GALLERIES
from tools.demo.trees import TREES, write_trees
from tools.make_demo import FIRST_IN_TREES, FIRST_UNSEEN, make_demo
from utils.faces import SIZE, TEMPLATE, align, similarity

NUM_PEOPLE = 16  # 8 known ones, of them 4 in IJB-B and 5 in IJB-S, and 8 strangers


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    with worker_map(workers=1) as map_tasks:
        write_trees(folder, range(NUM_PEOPLE), 3, map_tasks)
    return folder


def rows(path: Path, delimiter=" ", header=False) -> list[list[str]]:
    return [line.split(delimiter) for line in path.read_text().splitlines()[header:]]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def size(path: Path) -> tuple[int, int]:
    return cv2.imread(str(path)).shape[:2]


# ----------------------------------------------------------------------------------------------------- people


def test_there_is_a_folder_for_each_benchmark(root):
    assert names_in(root) == set(TREES)


def test_no_one_in_the_trees_is_trained_on_or_in_the_verification_sets():
    default = make_demo.__kwdefaults__
    assert default["identities"] < FIRST_UNSEEN < FIRST_UNSEEN + default["pairs"] < FIRST_IN_TREES


# ------------------------------------------------------------------------------------------- IJB-B and IJB-C


@pytest.fixture(params=["IJBB", "IJBC"])
def ijb(root, request):
    """Folder and prefix of the tables, and the rows of 1:N by list."""
    tree, prefix = root / request.param, request.param.lower()
    lists = [f"gallery_{half}" for half in GALLERIES[request.param]] + ["probe_mixed"]
    tables = [rows(tree / "meta" / f"{prefix}_1N_{name}.csv", ",", header=True) for name in lists]
    return tree, f"{tree}/meta/{prefix}", tables


def test_ijb_names_the_same_faces_everywhere_and_in_the_same_order(ijb):
    tree, meta, tables = ijb
    listed = [row[0] for row in rows(Path(f"{meta}_face_tid_mid.txt"))]
    landmarks = rows(Path(f"{meta}_name_5pts_score.txt"))
    assert listed == [row[0] for row in landmarks]
    assert set(listed) == names_in(tree / "loose_crop")
    assert Counter(listed) == Counter(row[2] for table in tables for row in table)  # each face once
    assert {len(row) for row in landmarks} == {12}
    assert names_in(tree / "meta") == {Path(f"{meta}_{rest}").name for rest in IJB_FILES[tree.name]}


IJB_FILES = {
    tree: {"face_tid_mid.txt", "name_5pts_score.txt", "template_pair_label.txt", "1N_probe_mixed.csv"}
    | {f"1N_gallery_{half}.csv" for half in halves}
    for tree, halves in GALLERIES.items()
}


def test_ijb_templates_have_one_or_several_media_of_one_or_several_frames(ijb):
    media = defaultdict(Counter)
    for _, template, medium in rows(Path(f"{ijb[1]}_face_tid_mid.txt")):
        media[template][medium] += 1
    kinds = {(len(frames) > 1, max(frames.values()) > 1) for frames in media.values()}
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}
    in_order = [int(row[1]) for row in rows(Path(f"{ijb[1]}_face_tid_mid.txt"))]
    assert in_order != sorted(in_order)  # whoever relies on sorted templates is found out


def test_ijb_enrolls_each_subject_once_and_searches_it_twice(ijb):
    templates = [{(template, subject) for template, subject, *_ in table} for table in ijb[2]]
    enrolled = Counter(subject for gallery in templates[:2] for _, subject in gallery)
    assert set(enrolled.values()) == {1}
    assert Counter(subject for _, subject in templates[2]) == dict.fromkeys(enrolled, 2)
    assert abs(len(templates[0]) - len(templates[1])) <= 1


def test_ijb_compares_every_two_templates_and_labels_them_by_subject(ijb):
    subject_of = {template: subject for table in ijb[2] for template, subject, *_ in table}
    pairs = {frozenset(row[:2]): row[2] for row in rows(Path(f"{ijb[1]}_template_pair_label.txt"))}
    assert set(pairs) == {frozenset(pair) for pair in combinations(subject_of, 2)}
    for (one, other), label in pairs.items():
        assert label == str(int(subject_of[one] == subject_of[other]))


def test_ijb_stills_score_higher_with_the_detector_than_frames_of_videos(ijb):
    media = [row[2] for row in rows(Path(f"{ijb[1]}_face_tid_mid.txt"))]
    score = np.array([float(row[-1]) for row in rows(Path(f"{ijb[1]}_name_5pts_score.txt"))])
    frames = np.array([media.count(medium) > 1 for medium in media])
    assert 0 < score.min() <= score[frames].max() < score[~frames].min() <= score.max() < 1


def test_ijb_crops_are_larger_than_faces_and_hold_the_landmarks(ijb):
    shapes = set()
    for name, *values in rows(Path(f"{ijb[1]}_name_5pts_score.txt")):
        height, width = size(ijb[0] / "loose_crop" / name)
        points = np.reshape(values[:10], (5, 2)).astype(float)
        assert min(height, width) > SIZE
        assert (points > 0).all()
        assert (points < (width, height)).all()
        shapes.add((height, width))
    assert any(height != width for height, width in shapes)  # whoever mixes up x and y is found out


# -------------------------------------------------------------------------------------------------- alignment


def test_an_aligned_loose_crop_shows_the_face_where_the_aligned_photograph_has_it():
    """So training and loose crops have alignment errors of one kind."""
    person = Head(Identity(np.random.default_rng(3)))
    window = cv2.createHanningWindow((SIZE, SIZE), cv2.CV_32F)
    for seed in range(12):
        crop, landmarks = loose_crop(person, np.random.default_rng(seed), 0)
        images = align(crop, landmarks), photograph(person, np.random.default_rng(seed), 0)
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in images]
        shift, similar = cv2.phaseCorrelate(*grey, window)
        assert np.hypot(*shift) < 0.6  # pixels
        assert similar > 0.5  # two people: 0.25 at most


def test_landmarks_meet_the_template_but_for_pose_expression_and_detector():
    person = Head(Identity(np.random.default_rng(3)))
    misses, angles = [], []
    for seed in range(40):
        _, landmarks = loose_crop(person, np.random.default_rng(seed), 0)
        transform = similarity(landmarks)
        landed = landmarks @ transform[:, :2].T + transform[:, 2]
        assert np.allclose(landed.mean(axis=0), TEMPLATE.mean(axis=0))
        misses.append(np.abs(landed - TEMPLATE).max())
        angles.append(np.arctan2(transform[1, 0], transform[0, 0]))
    assert 1 < np.median(misses) < 6  # pixels: as far as those of a face that is turned away
    assert np.std(angles) > 0.1  # radians


# -------------------------------------------------------------------------------------- TinyFace and SurvFace


def mat_names(path: Path, key: str) -> list[list[str]]:
    """The names in a cell, as the official code unpacks them."""
    return [[entry.item() for entry in row] for row in loadmat(path)[key]]


def test_tinyface_lists_name_the_images_and_their_identities(root):
    testing = root / "tinyface" / "tinyface" / "Testing_Set"
    for file, folder, key in (
        ("probe_img_ID_pairs.mat", "Probe", "probe"),
        ("gallery_match_img_ID_pairs.mat", "Gallery_Match", "gallery"),
    ):
        names = [name for (name,) in mat_names(testing / file, f"{key}_set")]
        assert set(names) == names_in(testing / folder)
        assert len(names) == len(set(names))
        ids = loadmat(testing / file)[f"{key}_ids"]
        assert ids.shape == (len(names), 1)
        assert ids.ravel().tolist() == [int(name.split("_")[0]) for name in names]
        assert set(ids.ravel()) == set(range(1, NUM_PEOPLE // 2 + 1))


def test_tinyface_has_an_aligned_image_for_each_small_one_and_no_stem_twice(root):
    testing, aligned = (
        root / "tinyface" / "tinyface" / "Testing_Set",
        root / "tinyface" / "aligned_pad_0.1_pad_high",
    )
    everything = []
    for folder in ("Probe", "Gallery_Match", "Gallery_Distractor"):
        assert names_in(testing / folder) == names_in(aligned / folder)
        assert {size(path) for path in (aligned / folder).iterdir()} == {(112, 112)}
        assert {size(path) for path in (testing / folder).iterdir()} == {(24, 24)}
        everything += [path.stem for path in (aligned / folder).iterdir()]
    assert len(everything) == len(set(everything))  # the official code finds images by their stem alone


def test_survface_has_as_many_pairs_of_two_people_as_of_one(root):
    tree = root / "survface"
    lists = tree / "QMUL-SurvFace" / "Face_Verification_Test_Set"
    positive, negative = (
        mat_names(lists / f"{key}.mat", key) for key in ("positive_pairs_names", "negative_pairs_names")
    )
    assert len(positive) == len(negative) == NUM_PEOPLE // 2 * 15
    assert len(set(map(frozenset, positive + negative))) == len(positive + negative)
    assert all(one.split("_")[0] == other.split("_")[0] for one, other in positive)
    assert all(one.split("_")[0] != other.split("_")[0] for one, other in negative)
    images = tree / "surv_ver_origin" / "verification_images"
    assert {name for pair in positive + negative for name in pair} == names_in(images)
    assert names_in(images) == names_in(lists / "verification_images")
    assert {size(path) for path in images.iterdir()} == {(112, 112)}


def test_survface_searches_enrolled_people_and_strangers(root):
    tree = root / "survface"
    originals = tree / "QMUL-SurvFace" / "Face_Identification_Test_Set"
    people = {}
    for folder in ("gallery", "mated_probe", "unmated_probe"):
        assert names_in(originals / folder) == names_in(tree / "surv_align" / folder)
        assert {size(path) for path in (tree / "surv_align" / folder).iterdir()} == {(112, 112)}
        people[folder] = {name.split("_")[0] for name in names_in(originals / folder)}
    assert people["gallery"] == people["mated_probe"]
    assert not people["gallery"] & people["unmated_probe"]
    for folder in ("gallery", "mated_probe"):
        content = loadmat(originals / f"{folder}_img_ID_pairs.mat")
        names = [entry.item() for entry in content[f"{folder}_set"].ravel()]
        assert set(names) == names_in(originals / folder)
        ids = content[f"{folder}_ids"].ravel()
        assert ids.tolist() == [int(name.split("_")[0]) - 20_000 for name in names]


# ------------------------------------------------------------------------------------------------------ IJB-S


@pytest.fixture
def ijbs(root):
    """Folder, (subject, file) of the metadata, and the stems of the aligned faces by (subject, file)."""
    tree = root / "ijbs"
    listed = [tuple(row[:2]) for row in rows(tree / "cs6_metadata.csv", ",", header=True)]
    faces = defaultdict(list)
    for _, path in rows(tree / "image_list.csv", ",", header=True):
        subject, name = path.split("/")
        kind, number = Path(name).stem.split("_")[:2]
        faces[subject, f"{kind}/{number}.{'mp4' if kind == 'videos' else 'jpg'}"].append(path)
    return tree, listed, faces


def test_ijbs_has_every_listed_face_and_lists_every_face(ijbs):
    tree, listed, faces = ijbs
    paths = [path for found in faces.values() for path in found]
    assert set(paths) == {path.relative_to(tree).as_posix() for path in tree.rglob("*.jpg")}
    assert {size(tree / path) for path in paths} == {(112, 112)}
    assert set(faces) < set(listed)
    assert {kind.split("/")[0] for _, kind in faces} == {"videos", "img"}


def test_ijbs_has_one_video_template_without_faces(ijbs):
    _, listed, faces = ijbs
    empty = set(listed) - set(faces)
    assert len(empty) == 1
    assert empty.pop()[1].startswith("videos/")


def test_ijbs_galleries_hold_each_subject_in_one_half(ijbs):
    tree, listed, _ = ijbs
    for kind, images in (("single", 1), ("booking", 2), ("surveillance", 1)):
        halves = [
            [
                tuple(row[1:3])
                for row in rows(tree / "galleries" / f"cs6_surveillance_to_{kind}_{half}.csv", ",", True)
            ]
            for half in ("g1", "g2")
        ]
        assert set(halves[0] + halves[1]) <= set(listed)
        subjects = [Counter(subject for subject, _ in half) for half in halves]
        assert not subjects[0].keys() & subjects[1].keys()
        assert subjects[0] | subjects[1] == {subject: images for subject, _ in listed}


def test_ijbs_searches_videos_that_are_not_enrolled_and_drone_videos_with_images(ijbs):
    tree, listed, _ = ijbs
    probes = {
        name: [line for (line,) in rows(tree / f"cs6_{name}_probe.csv", ",", header=True)]
        for name in (
            "surveillance_to_single-booking",
            "surveillance_to_surveillance",
            "uav_to_single-booking",
        )
    }
    files = {file for _, file in listed}
    assert all(set(names) <= files and len(set(names)) == len(names) for names in probes.values())
    enrolled = {
        row[2]
        for half in ("g1", "g2")
        for row in rows(tree / "galleries" / f"cs6_surveillance_to_surveillance_{half}.csv", ",", header=True)
    }
    assert not enrolled & set(probes["surveillance_to_surveillance"])
    assert enrolled < set(probes["surveillance_to_single-booking"])
    assert {name.split("/")[0] for name in probes["uav_to_single-booking"]} == {"videos", "img"}
