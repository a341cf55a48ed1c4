"""Shuffled, split, merged, unpacked: the same records come out, and a folder comes back byte for byte."""

import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from dataset import RecordDataset
from helpers.other_data import LABELS, WRITERS
from helpers.records import picture, png, write_rec
from tools.helpers.record_sources import as_it_was, open_rec
from tools.make_rec import Options, make_rec
from tools.merge_rec import merge_rec
from tools.rec_to_folder import rec_to_folder
from tools.shuffle_rec import shuffle_rec
from tools.split_rec import counts_of_shares, main, split_rec
from utils.errors import printable
from utils.recordio import IndexedRecordWriter, RecordError

NAMES = {"ann/1.png": 0, "ann/b.jpg": 1, "bob/1.png": 2, "c\\d\n/ä.png": 3, "eve/1.png": 4, "eve/2.png": 5}


@pytest.fixture
def folder(tmp_path):
    for name, seed in NAMES.items():
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / name).write_bytes(png(picture(seed)))
    return tmp_path / "faces"


@pytest.fixture
def rec(folder, tmp_path):
    make_rec(folder, tmp_path / "rec")
    return tmp_path / "rec"


def files(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*g")}


def records(rec) -> Counter:
    """Who, which file, further labels and bytes of every record; the order does not count."""
    source = open_rec(rec)
    names = source.names or [None] * len(source)
    people = [source.identities[label] for label in source.labels]
    found = [(people[i], names[i], *source.record(i)) for i in range(len(source))]
    return Counter((person, name, tuple(further), encoded) for person, name, further, encoded in found)


def test_a_folder_comes_back_byte_for_byte(folder, rec, tmp_path):
    assert rec_to_folder(open_rec(rec), tmp_path / "again").endswith("again: 6 images of 4 identities")
    assert files(tmp_path / "again") == files(folder)
    assert len(files(folder)) == 6
    with pytest.raises(FileExistsError, match="again exists already"):
        rec_to_folder(open_rec(rec), tmp_path / "again")


def test_a_shuffled_rec_has_the_same_records_in_another_order(rec, tmp_path):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        shuffle_rec(rec, tmp_path / name, seed)
    assert records(tmp_path / "one") == records(rec)
    orders = [open_rec(tmp_path / name).names for name in ("one", "same", "other")]
    assert orders[0] == orders[1] != orders[2]
    shuffled = RecordDataset(tmp_path / "one")
    assert (shuffled.keys.tolist(), shuffled.num_classes) == (list(range(6)), 4)
    assert not (np.diff(shuffled.labels()) >= 0).all()


def test_the_parts_of_a_rec_merge_to_the_same_records(rec, tmp_path):
    parts = [tmp_path / "large", tmp_path / "small"]
    done = split_rec(open_rec(rec), parts, counts_of_shares([0.75, 0.25], 4), seed=3, dry_run=False)
    assert [line.split(" of ")[1] for line in done] == ["3 identities", "1 identities"]
    people = [set(open_rec(part).identities) for part in parts]
    assert (list(map(len, people)), people[0] & people[1]) == ([3, 1], set())
    assert records(parts[0]) + records(parts[1]) == records(rec)
    merge_rec(parts, tmp_path / "merged")
    assert records(tmp_path / "merged") == records(rec)
    merged = RecordDataset(tmp_path / "merged")
    assert merged.num_classes == 4
    assert merged.labels()[: len(RecordDataset(parts[0]))].max() == 2  # those of the second begin at 3
    rec_to_folder(open_rec(tmp_path / "merged"), tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "faces")


def test_recs_without_names_keep_empty_classes_and_further_labels(tmp_path):
    write_rec(tmp_path / "one", [2, [0, 0.5], 2])
    (tmp_path / "one" / "property").write_text("4,112,112\n")
    write_rec(tmp_path / "two", [1, 0])
    merge_rec([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")
    merged = RecordDataset(tmp_path / "merged")
    assert (merged.num_classes, merged.labels().tolist()) == (6, [0, 2, 2, 4, 5])
    assert [merged.reader.read(key)[0].tolist() for key in (1, 2)] == [[0, 0.5], [2]]
    assert [merged.reader.read(key)[1] for key in (4, 5)] == [png(picture(1)), png(picture(0))]
    assert not (tmp_path / "merged" / "images.txt").exists()
    rec_to_folder(open_rec(tmp_path / "merged"), tmp_path / "folder")
    assert sorted(files(tmp_path / "folder")) == [f"{n}/{i:07}.png" for i, n in enumerate((0, 2, 2, 4, 5))]


@pytest.mark.parametrize(
    ("shares", "total", "counts"),
    [([0.9, 0.1], 1000, [900, 100]), ([1 / 3] * 3, 10, [3, 4, 3]), ([0.5], 3, [2])],
)
def test_shares_leave_nobody_out_and_nobody_twice(shares, total, counts):
    assert counts_of_shares(shares, total) == counts
    with pytest.raises(ValueError, match="each is above 0, and together at most 1"):
        counts_of_shares([*shares, 1.0], total)


@pytest.mark.parametrize(
    ("counts", "outs"), [([4, 1], ["a", "b"]), ([0], ["a"]), ([1], ["a", "b"]), ([1, 1], ["a", "a"])]
)
def test_a_split_that_cannot_be_writes_nothing(counts, outs, rec, tmp_path):
    with pytest.raises(ValueError, match=r"each part needs one|expected as many|names a folder twice"):
        split_rec(open_rec(rec), [tmp_path / out for out in outs], counts, seed=0, dry_run=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "rec"]


@pytest.mark.parametrize("sizes", [["--identities", "1"], ["--shares", "0.25"]])
def test_the_last_part_gets_all_others(sizes, rec, tmp_path, monkeypatch, capsys):
    outs = [str(tmp_path / name) for name in ("few", "others")]
    monkeypatch.setattr(sys, "argv", ["split_rec.py", "--rec", str(rec), "--out", *outs, *sizes])
    main()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" of ")[1] for line in printed] == ["1 identities", "3 identities"]


def test_dry_runs_write_nothing(rec, tmp_path):
    source = open_rec(rec)
    assert (
        split_rec(source, [tmp_path / "part"], [3], seed=0, dry_run=True)[1] == "1 identities are in no part"
    )
    assert rec_to_folder(source, tmp_path / "folder", dry_run=True).startswith("nothing is written: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "rec"]


def test_no_name_leads_out_of_the_folder(rec, tmp_path):
    (rec / "identities.txt").write_text("0\t../ann\n1\tbob\n2\tc\n3\teve\n")
    (rec / "images.txt").write_text("".join(f"{key}\t/etc/..\n" for key in range(1, 7)))
    rec_to_folder(open_rec(rec), tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["0", "1", "2", "3"]
    (rec / "identities.txt").write_text("0\tann\n")
    with pytest.raises(ValueError, match=r"identities\.txt has no name for 1: remove the file"):
        open_rec(rec)


def test_a_record_that_is_no_image_stops_the_unpacking_and_leaves_nothing(tmp_path):
    with IndexedRecordWriter(tmp_path / "train.idx", tmp_path / "train.rec") as writer:
        writer.write(0, 0, b"no image")
    with pytest.raises(RecordError, match=r"record 0 holds no image of a known format: .* --repair"):
        rec_to_folder(open_rec(tmp_path), tmp_path / "folder")
    assert not list(tmp_path.glob("folder*"))


def test_printed_names_are_read_as_they_were():
    for name in ("a\\b", "a\nb\tc\r", "\udcff", "ä\u2028\U000e0001", "\\x41", "plain"):
        assert as_it_was(printable(name)) == name


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "rec"])
def test_other_containers_are_packed(kind, tmp_path):
    source = WRITERS[kind](tmp_path / kind, LABELS)
    done = make_rec(source, tmp_path / "out", Options(workers=1))
    assert done == ["8 images of 3 identities"]
    order = np.argsort(LABELS, kind="stable").tolist()
    packed = RecordDataset(tmp_path / "out")
    assert [packed.encoded(i) for i in range(8)] == [(png(picture(i)), LABELS[i]) for i in order]
    assert all(one <= two for one, two in pairwise(packed.labels()))
