"""tools/make_bin.py: folders and lists of pairs become verification sets."""

import cv2
import numpy as np
import pytest

from eval.readers.bin_sets import load_bin
from eval.readers.pair_lists import read_pairs
from helpers.evaluation_runs import ROOT, png, run


@pytest.fixture
def faces(tmp_path):
    """Four images of two people, in LFW's layout."""
    colours = {"Ann": [(10, 0, 0), (20, 0, 0)], "Bob_B": [(0, 0, 30), (0, 0, 40)]}
    for name, each in colours.items():
        (tmp_path / name).mkdir()
        for number, colour in enumerate(each, start=1):
            (tmp_path / name / f"{name}_{number:04d}.png").write_bytes(png(colour))
    return tmp_path


def make_bin(folder, pairs, *more):
    return run(
        ROOT / "tools" / "make_bin.py", "--images", ".", "--pairs", pairs, "--out", "x.bin", *more, cwd=folder
    )


LFW_PAIRS = "1\t1\nAnn\t1\t2\nAnn\t2\tBob_B\t1\n"
CSV_PAIRS = (
    "path1,path2,issame\nAnn/Ann_0001.png,Ann/Ann_0002.png,1\nAnn/Ann_0002.png,Bob_B/Bob_B_0001.png,False\n"
)


@pytest.mark.parametrize(("name", "text"), [("pairs.txt", LFW_PAIRS), ("pairs.csv", CSV_PAIRS)])
def test_a_folder_and_a_list_of_pairs_become_a_set(faces, name, text):
    (faces / name).write_text(text)
    done = make_bin(faces, name)
    assert done.returncode == 0, done.stderr
    assert "2 pairs, 1 of the same person, 3 different images" in done.stdout
    images, issame = load_bin(faces / "x.bin")
    assert images[:, 0, 0].tolist() == [[10, 0, 0], [20, 0, 0], [20, 0, 0], [0, 0, 30]]
    assert issame.tolist() == [True, False]


@pytest.mark.parametrize(("more", "alternates"), [((), True), (("--keep-order",), False)])
def test_a_list_that_is_sorted_by_kind_is_interleaved_unless_its_order_is_to_stay(faces, more, alternates):
    rows = ["Ann/Ann_0001.png,Ann/Ann_0002.png,1"] * 10 + ["Ann/Ann_0002.png,Bob_B/Bob_B_0001.png,0"] * 10
    (faces / "pairs.csv").write_text("\n".join(rows) + "\n")
    done = make_bin(faces, "pairs.csv", *more)
    assert ("its pairs were interleaved" if alternates else "warning: folds hold one kind") in done.stdout
    images, issame = load_bin(faces / "x.bin")
    assert issame.tolist() == [True, False] * 10 if alternates else [True] * 10 + [False] * 10
    second = images[1::2, 0, 0]
    assert [pixel.tolist() == [20, 0, 0] for pixel in second] == issame.tolist()  # images go with their pair


def test_a_crop_is_cut_out_of_larger_images(faces):
    for number in (1, 2):
        image = np.zeros((250, 250, 3), np.uint8)
        image[44:184, 54:194] = (50, 100, 200)  # BGR
        cv2.imwrite(str(faces / "Ann" / f"Ann_000{number}.png"), image)
    (faces / "pairs.txt").write_text("Ann 1 2\n")
    refused = make_bin(faces, "pairs.txt")
    assert refused.returncode == 1
    assert "is 250x250, expected an aligned face" in refused.stderr
    assert make_bin(faces, "pairs.txt", "--crop", 54, 44, 194, 184).returncode == 0
    images, _ = load_bin(faces / "x.bin")
    assert np.abs(images.astype(int) - (200, 100, 50)).max() <= 3  # what JPEG may change


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pairs.txt", "Ann 1\n", "line 1: 'Ann 1', expected `name n m`"),
        ("pairs.txt", "Ann 1 9\n", "Ann_0009.jpg"),
        ("pairs.txt", "10 300\n", "lists no pairs"),
        ("pairs.csv", "a.png,b.png,maybe\n", "line 1: 'a.png,b.png,maybe', expected path1,path2,issame"),
    ],
)
def test_a_list_that_does_not_fit_is_reported_with_its_line(faces, name, text, message):
    (faces / name).write_text(text)
    failed = make_bin(faces, name)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert message in failed.stderr
    assert not (faces / "x.bin").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pairs.csv", "\ufeff" + CSV_PAIRS),
        ("pairs.csv", CSV_PAIRS.replace(",", " , ") + " , ,\n"),
        ("pairs.txt", "\ufeff" + LFW_PAIRS),
    ],
)
def test_lists_as_windows_and_excel_save_them_are_read(faces, name, data):
    (faces / name).write_text(data, encoding="utf-8")
    pairs = read_pairs(faces / name, faces)
    assert [(first.name, second.name, same) for first, second, same in pairs] == [
        ("Ann_0001.png", "Ann_0002.png", True),
        ("Ann_0002.png", "Bob_B_0001.png", False),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "pairs.csv",
            CSV_PAIRS.encode("utf-16"),
            r"pairs\.csv is no text in UTF-8 .*it is UTF-16",
        ),
        ("pairs.txt", "Zoë 1 2".encode("latin-1"), r"pairs\.txt is no text in UTF-8"),
        ("pairs.csv", b"a" * 200_000, r"pairs\.csv: field larger than field limit"),
        ("pairs.csv", b"../Ann/1.png,b.png,1", r"line 1: '\.\./Ann/1\.png' does not lie below"),
        ("pairs.csv", b"a.png,/etc/b.png,1", r"line 1: '/etc/b\.png' does not lie below"),
        ("pairs.txt", b"../Ann 1 2", r"line 1: .* does not lie below"),
    ],
)
def test_a_list_that_is_no_text_or_leads_elsewhere_is_named(faces, name, data, message):
    (faces / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_pairs(faces / name, faces)


def test_an_absolute_path_below_the_folder_is_read(faces):
    (faces / "pairs.csv").write_text(f"{faces}/Ann/Ann_0001.png,Ann/../Ann/Ann_0002.png,1\n")
    assert all(path.exists() for path in read_pairs(faces / "pairs.csv", faces)[0][:2])
