"""IJB's metadata: read as published, and every fault reported in one line with file and line."""

import re
import shutil

import numpy as np
import pytest

from eval.ijb.data import find, load_ijb
from helpers.ijb_trees import ENROLLED, TEMPLATES, write_ijb
from utils.faces import TEMPLATE


@pytest.fixture
def tree(tmp_path):
    return write_ijb(tmp_path / "data")


def test_a_sound_tree_is_read_whole(tree):
    ijb = load_ijb(tree, "IJBC")
    assert len(ijb.paths) == len(ijb.templates) == len(ijb.media) == len(ijb.detector_scores) == 12
    number = np.array([int(re.search(r"(\d+)\.jpg$", path)[1]) for path in ijb.paths])
    images = np.array([(template, media) for template, _, medias in TEMPLATES for media in medias])
    assert np.array_equal(np.stack([ijb.templates, ijb.media], axis=1), images[number])
    assert np.allclose(ijb.landmarks, TEMPLATE + (number % 5)[:, None, None], atol=0.01)
    assert np.allclose(ijb.detector_scores, 0.5 + 0.03 * number)
    assert (len(ijb.pairs), ijb.same.sum()) == (28, 4)
    assert [gallery.templates.tolist() for gallery in ijb.galleries] == [list(part) for part in ENROLLED]
    assert [gallery.subjects.tolist() for gallery in ijb.galleries] == [[70, 90], [50, 60]]
    assert ijb.probes.templates.tolist() == [2, 4, 6, 8]
    assert ijb.probes.subjects.tolist() == [70, 50, 90, 60]


def test_what_a_folder_holds_is_found(tree):
    assert find(tree) == ["IJBC"]
    write_ijb(tree, "IJBB")
    assert find(tree) == ["IJBB", "IJBC"]
    assert load_ijb(tree, "IJBB").probes.templates.tolist() == [2, 4, 6, 8]
    with pytest.raises(FileNotFoundError, match="neither IJBB/meta nor IJBC/meta"):
        find(tree / "IJBC")


IMAGES, POINTS = "ijbc_face_tid_mid.txt", "ijbc_name_5pts_score.txt"
PAIRS, G1, PROBES = "ijbc_template_pair_label.txt", "ijbc_1N_gallery_G1.csv", "ijbc_1N_probe_mixed.csv"


def put(line: int, text: str):
    """Replaces a line, counted from 1."""

    def change(lines):
        return [*lines[: line - 1], text, *lines[line:]]

    return change


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (IMAGES, put(3, "a.jpg 1"), "face_tid_mid.txt line 3: 2 columns, expected 3"),
        (IMAGES, put(2, ""), "face_tid_mid.txt line 2: it is empty"),
        (IMAGES, put(2, "0.jpg one 11"), "face_tid_mid.txt line 2: template is 'one', expected an integer"),
        (
            POINTS,
            put(4, "other.jpg" + " 1" * 11),
            "5pts_score.txt line 4: 'other.jpg', but ijbc_face_tid_mid",
        ),
        (
            POINTS,
            lambda lines: [*lines[:6], lines[6].split()[0] + " 7.5 9" * 5 + " 0.9", *lines[7:]],
            r"5pts_score.txt line 7: landmarks that are all in one place: \[7.5 9. \]",
        ),
        (POINTS, lambda lines: lines[:-1], "5pts_score.txt has 11 rows, ijbc_face_tid_mid.txt has 12"),
        (PAIRS, put(5, "1 99 0"), r"pair_label.txt line 5: a template without images: \[ 1 99\]"),
        (PAIRS, put(6, "1 2 2"), "pair_label.txt line 6: a label that is neither 0 nor 1: 2"),
        (PAIRS, lambda lines: ["1 2 1"] * 3, "pair_label.txt: all 3 pairs are of the same subject"),
        (G1, put(2, "99,70,0.jpg,3"), "G1.csv line 2: a template without images: 99"),
        (G1, put(3, "1,71,0.jpg,3"), "G1.csv line 3: a template of two subjects: 1"),
        (
            G1,
            put(5, "5,50,0.jpg,3"),
            r"G2.csv line 2: subject 50 of template 3 is enrolled already: template 5, .*G1.csv line 5",
        ),
        (PROBES, put(2, "2,7,0.jpg,3"), "probe_mixed.csv line 2: a subject of no gallery: 7"),
        (PROBES, put(1, "2,70,0.jpg,3"), "probe_mixed.csv line 1: expected a header"),
        (PROBES, put(3, "4"), "probe_mixed.csv line 3: 1 columns, expected 4"),
    ],
)
def test_a_fault_is_one_line_with_file_and_line(tree, file, change, message):
    path = tree / "IJBC" / "meta" / file
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=message) as error:
        load_ijb(tree, "IJBC")
    assert "\n" not in str(error.value)


def test_missing_images_are_reported_with_their_lines(tree):
    images = tree / "IJBC" / "loose_crop"
    (images / "3.jpg").unlink()
    names = [line.split()[0] for line in (tree / "IJBC" / "meta" / IMAGES).read_text().splitlines()]
    line = 1 + names.index("3.jpg")
    with pytest.raises(FileNotFoundError, match=rf"{IMAGES}: of its 12 .* lacks 1 \(3.jpg of line {line}\)$"):
        load_ijb(tree, "IJBC")
    shutil.rmtree(images)
    with pytest.raises(FileNotFoundError, match=r"loose_crop lacks 12 \(.* of line 1, .*, …\)$"):
        load_ijb(tree, "IJBC")


@pytest.mark.parametrize("file", [IMAGES, POINTS, PAIRS, G1, PROBES])
def test_lines_may_end_in_crlf(tree, file):
    path, expected = tree / "IJBC" / "meta" / file, load_ijb(tree, "IJBC")
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    found = load_ijb(tree, "IJBC")
    assert found.paths == expected.paths
    for name in ("landmarks", "detector_scores", "templates", "media", "pairs", "same"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    for part, whole in zip((*found.galleries, found.probes), (*expected.galleries, expected.probes)):
        assert np.array_equal(part, whole)


def test_a_missing_list_is_named(tree):
    (tree / "IJBC" / "meta" / G1).unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*ijbc_1N_gallery_G1.csv"):
        load_ijb(tree, "IJBC")


def test_without_any_list_of_1_n_there_is_1_1_alone(tree):
    for file in (tree / "IJBC" / "meta").glob("*_1N_*"):
        file.unlink()
    ijb = load_ijb(tree, "IJBC")
    assert (ijb.galleries, ijb.probes, len(ijb.pairs)) == (None, None, 28)
