"""The tools that pack a folder of faces into a rec and say what is in one, started from elsewhere."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset import FolderDataset, RecordDataset
from eval.readers.errors import ListedError
from helpers.records import picture, png, write_rec
from tools.inspect_rec import contact_sheet
from tools.make_rec import make_rec
from tools.record_files import repair
from utils.recordio import MAGIC_BYTES

ROOT = Path(__file__).resolve().parents[1]


def run_tool(name: str, *arguments, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools" / name, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(["bob/1.png", "ann/1.png", "ann/2.png", "eve/1.png", "bob/2.png"]):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(i)))
    return tmp_path / "faces"


def test_a_packed_folder_holds_the_same_files_in_the_same_order(folder, tmp_path):
    done = run_tool("make_rec.py", "--images", "faces", "--out", "rec", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "rec: 5 images of 3 identities\n"), done.stderr
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
    assert list((tmp_path / "rec").iterdir()) == []


def test_bad_images_are_left_out_on_request_and_labels_have_no_gap(folder, tmp_path):
    for name in ("ann/1.png", "ann/2.png", "bob/2.png"):
        (folder / name).write_bytes(b"damaged")
    done = make_rec(folder, tmp_path / "rec", skip_bad=True)
    assert done[0] == "2 images of 2 identities"
    assert done[1].startswith("left out: 3 bad images: ")
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


def test_inspection_tells_counts_and_draws_the_classes(tmp_path):
    write_rec(tmp_path, [0, 3, 3, [1, 9]], {3: png(picture(3)[:50])})
    done = run_tool("inspect_rec.py", tmp_path, "--sheet", "sheet.png", "--rows", 1, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert np.array_equal(sheet[:112, 64 : 64 + 112, ::-1], picture(0))
    rows = dict(
        (cell.strip() for cell in line.split("|")[1:3]) for line in done.stdout.splitlines() if "|" in line
    )
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


def test_inspection_of_nothing_is_one_line(tmp_path):
    done = run_tool("inspect_rec.py", "none", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: none: no such folder\n")


def test_repair_copies_what_can_be_used_and_counts_the_rest(tmp_path):
    good, small = png(picture(0)), png(picture(0)[:100])
    images = {1: b"damaged", 2: small, 5: good[:999]}
    folder = write_rec(tmp_path / "bad", [2, 0, 0, 0, 0.5, 1e30, 2, 0, 1], images)
    (folder / "property").write_text("4,112,112\n")
    rec = bytearray((folder / "train.rec").read_bytes())
    starts = [int(line.split()[1]) for line in (folder / "train.idx").read_text().splitlines()]
    rec[starts[6]] ^= 1  # the magic number of record 6
    (folder / "train.rec").write_bytes(rec[:-40])  # and the last record is truncated
    (folder / "train.idx").unlink()
    done = run_tool("inspect_rec.py", "bad", "--repair", "clean", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *left_out = done.stdout.splitlines()
    assert first == "clean: 3 images of 2 identities"
    assert "  left out 2: damaged places in the file, each up to the next record" in left_out
    assert "  left out 2: labels that are no integer from 0" in left_out
    assert sum(int(line.split()[2].rstrip(":")) for line in left_out) == 6
    clean = RecordDataset(tmp_path / "clean")
    assert (len(clean), clean.num_classes, clean.labels().tolist()) == (3, 4, [0, 0, 2])
    for i, seed in enumerate((3, 7, 0)):
        assert np.array_equal(clean.read(i)[0], picture(seed))
    again = run_tool("inspect_rec.py", "bad", "--repair", "clean", cwd=tmp_path)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)


def test_repair_keeps_records_that_hold_the_magic_number(tmp_path):
    payload = png(picture(1)) + MAGIC_BYTES * 2
    write_rec(tmp_path / "source", [0, 1], {0: payload[: len(payload) // 4 * 4] + MAGIC_BYTES})
    repair(tmp_path / "source", tmp_path / "clean")
    one, other = RecordDataset(tmp_path / "source"), RecordDataset(tmp_path / "clean")
    assert [other.reader.read(key)[1] for key in other.keys] == [one.reader.read(key)[1] for key in one.keys]
