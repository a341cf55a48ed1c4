"""The tools that pack faces into a rec and say what is in one."""

import csv
import sys

import cv2
import numpy as np
import pytest

from dataset import FolderDataset, RecordDataset
from eval.readers.errors import ListedError
from helpers.records import picture, png, write_rec
from tools import inspect_rec
from tools import make_rec as make_rec_tool
from tools.alignment.faces import Face
from tools.alignment.photograph import Aligner
from tools.helpers.look_alikes import describe, look_alikes
from tools.helpers.record_files import repair
from tools.inspect_rec import contact_sheet
from tools.make_rec import Options, make_rec
from utils.faces import TEMPLATE, align
from utils.recordio import MAGIC_BYTES


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a tool in the folder of the test; gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(tool, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["tool", *map(str, arguments)])
        tool.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(["bob/1.png", "ann/1.png", "ann/2.png", "eve/1.png", "bob/2.png"]):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(i)))
    return tmp_path / "faces"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_packed_folder_holds_the_same_files_in_the_same_order(workers, folder, tmp_path, run, monkeypatch):
    monkeypatch.setattr(make_rec_tool, "PART", 2)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)  # OpenCV's threads, which no fork has
    done = run(make_rec_tool, "--images", "faces", "--out", "rec", "--workers", workers)
    assert done == "rec: 5 images of 3 identities\n  identities with one image: 1\n"
    faces, packed = FolderDataset(folder), RecordDataset(tmp_path / "rec")
    assert (len(packed), packed.num_classes) == (5, 3)
    for i in range(5):
        assert packed.reader.read(packed.keys[i])[1] == faces.path(i).read_bytes()
        assert packed[i][1] == faces[i][1]
    assert (tmp_path / "rec" / "property").read_text() == "3,112,112\n"
    assert (tmp_path / "rec" / "identities.txt").read_text() == "0\tann\n1\tbob\n2\teve\n"
    assert packed.reader.read(0)[0].tolist() == [6, 9]
    assert [packed.reader.read(key)[0].tolist() for key in (6, 7, 8)] == [[1, 3], [3, 5], [5, 6]]


def test_packing_names_every_bad_image_and_leaves_nothing(folder, tmp_path):
    for name in ("bob/2.png", "ann/1.png"):
        (folder / name).write_bytes(b"damaged")
    with pytest.raises(ListedError, match=r"--skip-bad leaves them out.*ann/1\.png: its 7 bytes.*bob/2\.png"):
        make_rec(folder, tmp_path / "rec")
    assert not (tmp_path / "rec").exists()


def test_bad_images_are_left_out_on_request_and_labels_have_no_gap(folder, tmp_path):
    for name in ("ann/1.png", "ann/2.png", "bob/2.png"):
        (folder / name).write_bytes(b"damaged")
    done = make_rec(folder, tmp_path / "rec", Options(skip_bad=True))
    assert done[:2] == ["2 images of 2 identities", "identities with one image: 2"]
    assert done[2].startswith("left out: 3 bad images: ")
    packed = RecordDataset(tmp_path / "rec")
    assert [packed[i][1] for i in range(len(packed))] == [0, 1]
    assert (tmp_path / "rec" / "identities.txt").read_text() == "0\tbob\n1\teve\n"


def test_a_name_with_control_characters_stays_on_its_line(folder, tmp_path):
    (folder / "ann").rename(folder / "a\n1\tb\\")
    make_rec(folder, tmp_path / "rec")
    assert (tmp_path / "rec" / "identities.txt").read_text() == "0\ta\\n1\\tb\\\\\n1\tbob\n2\teve\n"


def test_packing_overwrites_nothing(folder, tmp_path):
    (tmp_path / "property").write_text("mine")
    with pytest.raises(FileExistsError, match="property exists already: remove it, or choose another folder"):
        make_rec(folder, tmp_path)
    assert (tmp_path / "property").read_text() == "mine"
    assert not (tmp_path / "train.rec").exists()


def test_inspection_tells_counts_and_draws_the_classes(tmp_path, run):
    write_rec(tmp_path, [0, 3, 3, [1, 9]], {3: png(picture(3)[:50])})
    done = run(inspect_rec, tmp_path, "--sheet", "sheet.png", "--rows", 1)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert np.array_equal(sheet[:112, 64 : 64 + 112, ::-1], picture(0))
    rows = dict((cell.strip() for cell in line.split("|")[1:3]) for line in done.splitlines() if "|" in line)
    assert (rows["images"], rows["classes"], rows["classes without image"]) == ("4", "4", "1")
    assert rows["images per class (least / median / most)"] == "0 / 1 / 2"
    assert rows["width × height"] == "75.0% 112×112, 25.0% 112×50"
    assert (rows["formats"], rows["labels per record"]) == ("100.0% PNG", "75.0% 1, 25.0% 2")


def test_the_sheet_shows_a_class_a_row(tmp_path):
    dataset = RecordDataset(write_rec(tmp_path, [0, 3, 3, 1, 0, 0]))
    sheet = contact_sheet(dataset, rows=2, columns=2)
    assert sheet.shape == (2 * 114 - 2, 64 + 2 * 114 - 2, 3)
    for row, column, key in [(0, 0, 0), (0, 1, 4), (1, 0, 1), (1, 1, 2)]:  # classes 0 and 3 of 0, 1, 3
        top, left = row * 114, 64 + column * 114
        assert np.array_equal(sheet[top : top + 112, left : left + 112], picture(key))
    assert (sheet[:112, :64] < 255).any()  # the label


def test_inspection_of_nothing_is_one_line(run):
    with pytest.raises(FileNotFoundError, match=r"^none: no such folder$"):
        run(inspect_rec, "none")


def test_inspection_of_another_container_says_what_it_reads(tmp_path, run):
    (tmp_path / "faces.tar").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"faces\.tar is a file: expected a \.rec file or a folder"):
        run(inspect_rec, str(tmp_path / "faces.tar"))


def test_repair_copies_what_can_be_used_and_counts_the_rest(tmp_path, run):
    good, small = png(picture(0)), png(picture(0)[:100])
    images = {1: b"damaged", 2: small, 5: good[:999]}
    folder = write_rec(tmp_path / "bad", [2, 0, 0, 0, 0.5, 1e30, 2, 0, 1], images)
    (folder / "property").write_text("4,112,112\n")
    rec = bytearray((folder / "train.rec").read_bytes())
    starts = [int(line.split()[1]) for line in (folder / "train.idx").read_text().splitlines()]
    rec[starts[6]] ^= 1  # the magic number of record 6
    (folder / "train.rec").write_bytes(rec[:-40])  # and the last record is truncated
    (folder / "train.idx").unlink()
    first, *left_out = run(inspect_rec, "bad", "--repair", "clean").splitlines()
    assert first == "clean: 3 images of 2 identities"
    assert "  left out 2: damaged places in the file, each up to the next record" in left_out
    assert "  left out 2: labels that are no integer from 0" in left_out
    assert sum(int(line.split()[2].rstrip(":")) for line in left_out) == 6
    clean = RecordDataset(tmp_path / "clean")
    assert (len(clean), clean.num_classes, clean.labels().tolist()) == (3, 4, [0, 0, 2])
    for i, seed in enumerate((3, 7, 0)):
        assert np.array_equal(clean.read(i)[0], picture(seed))
    with pytest.raises(FileExistsError, match="exists already"):
        run(inspect_rec, "bad", "--repair", "clean")


def test_repair_keeps_records_that_hold_the_magic_number(tmp_path):
    payload = png(picture(1)) + MAGIC_BYTES * 2
    write_rec(tmp_path / "source", [0, 1], {0: payload[: len(payload) // 4 * 4] + MAGIC_BYTES})
    repair(tmp_path / "source", tmp_path / "clean")
    one, other = RecordDataset(tmp_path / "source"), RecordDataset(tmp_path / "clean")
    assert [other.reader.read(key)[1] for key in other.keys] == [one.reader.read(key)[1] for key in one.keys]


def contents(folder) -> dict[str, bytes]:
    """Every file of record files by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "list.csv",
            "Identity,x,PATH\neve,3,eve/1.png\nbob,4,bob/1.png\nann,1,ann/1.png\nann,2,ann/2.png\n",
        ),
        ("list.lst", "0\t7\teve/1.png\n1\t2.0\t0.5\tbob/1.png\n\n2\t1.000\tann/1.png\n3\t1\tann/2.png\n"),
    ],
)
def test_a_list_says_which_files_and_whose_they_are(name, text, folder, tmp_path):
    (tmp_path / name).write_text(text)
    (folder / "bob" / "2.png").unlink()
    make_rec(folder, tmp_path / "folder")
    make_rec(tmp_path / name, tmp_path / "rec", Options(root=folder))
    one, other = contents(tmp_path / "folder"), contents(tmp_path / "rec")
    if name == "list.lst":
        assert other.pop("identities.txt") == b"0\t1\n1\t2\n2\t7\n"  # labels without gaps, and what they were
        del one["identities.txt"]
    assert other == one


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b\n1,2\n", "its first line has no column called path or file or image, but a, b"),
        ("a.csv", "path,label\n1.png,\n", r"line 2: no path or no identity in '1\.png,'"),
        ("a.csv", "path,label\n", "names no image"),
        ("a.lst", "0 7 a.png\n", "line 1: expected index TAB label TAB path, got '0 7 a.png'"),
    ],
)
def test_a_list_that_cannot_be_read_is_one_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}.* ?{message}"):
        make_rec(tmp_path / name, tmp_path / "rec")
    assert not (tmp_path / "rec").exists()


def test_a_rec_packed_again_is_the_same_rec(folder, tmp_path):
    make_rec(folder, tmp_path / "one")
    make_rec(tmp_path / "one", tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(folder, tmp_path, run):
    before = sorted(tmp_path.rglob("*"))
    done = run(make_rec_tool, "--images", "faces", "--out", "rec", "--dry-run", "--workers", 0)
    assert done.startswith("nothing is written: rec: 5 images of 3 identities\n  0.1 MiB would be written\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_left_of_a_rec_whose_writing_fails(folder, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tools.helpers.record_files._write_property", fail)
    with pytest.raises(OSError, match="No space left"):
        make_rec(folder, tmp_path / "rec")
    assert list((tmp_path / "rec").iterdir()) == []


def test_copies_under_two_names_are_reported(folder, tmp_path):
    image = picture(0)
    small = cv2.resize(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA), (112, 112))
    (folder / "eve" / "2.jpg").write_bytes(cv2.imencode(".jpg", small[:, :, ::-1])[1].tobytes())
    (folder / "bob" / "3.png").write_bytes(png(image))  # of the same person as 1.png
    done = make_rec(folder, tmp_path / "rec")
    assert "pairs of different identities that look alike (duplicates.csv): 1" in done
    with open(tmp_path / "rec" / "duplicates.csv", newline="") as file:
        _, row = csv.reader(file)
    assert row[1:4:2] == ["bob", "eve"]
    assert (row[0] in ("bob/1.png", "bob/3.png"), row[2], int(row[4]) <= 8) == (True, "eve/2.jpg", True)


def test_look_alikes_are_those_of_a_search_through_all_pairs():
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, (400, 2), np.uint64)
    labels = random.permutation(400)
    for i in range(0, 200, 2):  # pairs of which one hash is equal and the other differs in i // 20 bits
        hashes[i + 1] = hashes[i]
        hashes[i + 1, i // 2 % 2] ^= np.uint64((1 << (i // 20)) - 1)
    labels[101] = labels[100]  # one person
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(-1, dtype=int)
    wanted = [(i, j, bits[i, j]) for i, j in np.argwhere(np.triu(bits <= 8, 1)) if labels[i] != labels[j]]
    assert look_alikes(hashes, labels).tolist() == [list(map(int, pair)) for pair in wanted]
    assert len(wanted) == 89


def test_different_pictures_do_not_look_alike():
    hashes = np.array([describe(picture(i)) for i in range(300)])
    assert look_alikes(hashes, np.arange(300)).shape == (0, 3)


def test_photographs_are_aligned_before_they_are_packed(tmp_path, monkeypatch):
    random, points = np.random.default_rng(0), TEMPLATE * 1.5 + 10
    for name in ("ann/1.jpg", "bob/1.jpg", "bob/2.jpg"):
        (tmp_path / "photographs" / name).parent.mkdir(parents=True, exist_ok=True)
        image = cv2.resize(random.integers(0, 256, (9, 9, 3), np.uint8), (240, 200))
        cv2.imwrite(str(tmp_path / "photographs" / name), image)
    (tmp_path / "photographs" / "bob" / "3.jpg").write_bytes(b"damaged")

    def find(self, image, name):
        return [] if name == "bob/2.jpg" else [Face((0.0, 0.0, 100.0, 100.0), 1.0, points)]

    monkeypatch.setattr(Aligner, "find", find)
    done = make_rec(tmp_path / "photographs", tmp_path / "rec", Options(align=True))
    assert done == [
        "2 images of 2 identities",
        "identities with one image: 2",
        "left out: photographs without a face: 1 (bob/2.jpg)",
        "left out: that cannot be read: 1 (bob/3.jpg)",
    ]
    packed = RecordDataset(tmp_path / "rec")
    for index, name in enumerate(("ann/1.jpg", "bob/1.jpg")):
        photograph = cv2.imread(str(tmp_path / "photographs" / name))[:, :, ::-1]
        assert np.array_equal(packed.read(index)[0], align(np.ascontiguousarray(photograph), points))
    assert (tmp_path / "rec" / "images.txt").read_text() == "1\tann/1.png\n2\tbob/1.png\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photographs", "rec"]
    with pytest.raises(ValueError, match="--align takes photographs in files: a folder or a list"):
        make_rec(tmp_path / "rec", tmp_path / "again", Options(align=True))
