"""Tar, Parquet and LMDB: the images of RecordIO at the same index, exact resuming, clear errors."""

import os
import pickle
import re
import tarfile

import numpy as np
import pytest

from dataset import get_dataloader, get_dataset
from helpers.other_data import LABELS, WRITERS, add_member, write_lmdb, write_parquet, write_tars
from helpers.records import picture, png, settings
from loading.readers import tars
from loading.readers.choice import open_data
from training.identity import content_of
from utils.recordio import RecordError

KINDS = [kind for kind in WRITERS if kind != "rec"]


def batches(dataset, workers: int, first_batch: int = 0, **changes) -> list[list[bytes]]:
    cfg = settings(batch_size=2, num_workers=workers, flip_prob=0.5, photometric_prob=0.5, **changes)
    loader = get_dataloader(cfg, dataset, rank=0, world_size=1)
    loader.set_position(epoch=3, first_batch=first_batch)
    return [[part.numpy().tobytes() for part in batch] for batch in loader]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_images_stand_at_the_same_index(kind, tmp_path):
    dataset = get_dataset(settings(rec=str(WRITERS[kind](tmp_path, LABELS))))
    assert (len(dataset), dataset.num_classes, dataset.warnings) == (8, 3, [])
    assert dataset.labels().tolist() == LABELS
    for i, label in enumerate(LABELS):
        assert dataset.encoded(i) == (png(picture(i)), label)
        assert np.array_equal(dataset.read(i)[0], picture(i))
    again = pickle.loads(pickle.dumps(dataset))
    assert again.encoded(7) == dataset.encoded(7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_the_batches_that_a_rec_would_give(kind, tmp_path):
    expected = batches(open_data(WRITERS["rec"](tmp_path / "rec", LABELS)), workers=0)
    dataset = open_data(WRITERS[kind](tmp_path / kind, LABELS))
    assert batches(dataset, workers=0) == expected  # and then in a fork of the process that has read
    assert batches(dataset, workers=1, first_batch=2) == expected[2:]


@pytest.mark.parametrize("kind", KINDS)
def test_other_data_of_the_same_size_are_told_apart(kind, tmp_path):
    def content(name, labels):
        return content_of(open_data(WRITERS[kind](tmp_path / name, labels)))

    first = content("first", LABELS)
    assert content_of(open_data(tmp_path / "first")) == first
    if kind != "lmdb":  # its labels are in the values, which nobody reads for this
        assert content("second", LABELS[::-1]) != first
    assert content("longer", [*LABELS, 0, 1]) != first


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_above_the_declared_classes_is_named(kind, tmp_path):
    folder = WRITERS[kind](tmp_path, [0, 1, 0, 7])
    with pytest.raises(ValueError, match=r"has label 7; allowed: 0…[12] \(|has 3 classes, more than"):
        get_dataset(settings(rec=str(folder), num_classes=2)).read(3)


def test_the_headers_of_a_tar_are_read_once_and_again_when_it_changes(tmp_path, monkeypatch):
    write_tars(tmp_path, LABELS)
    first = open_data(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(tars, "_images", lambda path: pytest.fail("the headers are read again"))
        assert open_data(tmp_path).encoded(5) == first.encoded(5)
    (tmp_path / "faces-0.tar.index.npz").write_bytes(b"damaged")
    assert open_data(tmp_path).encoded(1) == first.encoded(1)
    with tarfile.open(tmp_path / "faces-0.tar", "a") as tar:
        add_member(tar, "new.png", png(picture(9)))
        add_member(tar, "new.cls", b"1")
    assert open_data(tmp_path).encoded(4) == (png(picture(9)), 1)
    assert open_data(tmp_path / "faces-0.tar").name_of(4) == f"{tmp_path}/faces-0.tar: new.png"


@pytest.mark.parametrize("changed", ["size", "time", "what is kept"])
def test_each_sign_that_a_tar_is_not_the_one_that_was_read_is_heeded(changed, tmp_path, monkeypatch):
    def write(label: bytes, *more: str) -> None:
        with tarfile.open(tmp_path / "faces.tar", "w") as tar:
            for name, data in (("a.png", b"x"), ("a.cls", label), *((name, b"x") for name in more)):
                add_member(tar, name, data)
        os.utime(tmp_path / "faces.tar", ns=(10**18, 10**18))

    write(b"1")
    assert tars.index_of(tmp_path / "faces.tar")[0, 2] == 1
    write(b"2", *(f"other.{i}" for i in range(40 if changed == "size" else 0)))
    if changed == "time":
        os.utime(tmp_path / "faces.tar", ns=(10**18, 10**18 + 1000))
    if changed == "what is kept":
        assert (
            tars.index_of(tmp_path / "faces.tar")[0, 2] == 1
        )  # neither size nor time tells: no case of these
        monkeypatch.setattr(tars, "FORMAT", tars.FORMAT + 1)
    assert tars.index_of(tmp_path / "faces.tar")[0, 2] == 2


def test_a_tar_in_a_folder_that_nobody_may_write_to_is_read_each_time(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(tars, "whole_file", refuse)
    assert open_data(write_tars(tmp_path, LABELS)).labels().tolist() == LABELS
    assert not list(tmp_path.glob("*.npz"))


def test_what_systems_leave_in_a_tar_and_folders_are_no_images(tmp_path):
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        folder = tarfile.TarInfo("people.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        add_member(tar, "._1.png", b"x")  # macOS: one beside each, between the members of a sample
        add_member(tar, "1.png", b"y")
        add_member(tar, "._1.cls", b"x")
        for name, data in {"1.json": b'{"id": 5}', "1.cls": b"3"}.items():
            add_member(tar, name, data)
    dataset = tars.index_of(tmp_path / "faces.tar")
    assert dataset.shape == (1, 3)
    assert dataset[0, 1:].tolist() == [1, 3]  # .cls comes before .json


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"x", "a.cls": "٣".encode()}, r"a\.cls has label '٣'; allowed: integers from 0"),
        ({"a.png": b"x", "a.cls": b"9" * 18}, r"a\.cls has label '9{18}'"),
        ({"a.png": b"x", "a.json": b'{"id": 4611686018427387904}'}, r"a\.json has label '46116"),
        ({"a.png": b"x", "a.json": b"5"}, r"a\.json has no label: expected an object"),
        ({"a.png": b"x", "a.json": b'{"id": true}'}, r"a\.json has label 'True'"),
        ({"a.png": b"x", "a.json": b"[" * 10**5}, r"a\.json is no JSON: "),
        ({"a.png": b"x"}, r"a\.png has no label: expected a\.cls or a\.json"),
        ({"a.png": b"x", "a.cls": b"-1"}, r"a\.cls has label '-1'; allowed: integers from 0"),
        ({"a.png": b"x", "a.cls": b"1.5"}, r"a\.cls has label '1\.5'"),
        ({"a.png": b"x", "a.json": b'{"label": "ann"}'}, r"a\.json has label 'ann'"),
        (
            {"a.png": b"x", "a.json": b"[1]"},
            r"a\.json has no label: expected an object with one of label, cls",
        ),
        ({"a.png": b"x", "a.json": b"{"}, r"a\.json is no JSON"),
        ({"a.png": b"x", "a.jpg": b"x"}, r"a has two images, \.jpg is the second"),
        ({"a.txt": b"x"}, r"faces\.tar holds no image"),
    ],
)
def test_a_tar_that_cannot_be_used_is_one_line(members, message, tmp_path):
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        for name, data in members.items():
            add_member(tar, name, data)
    with pytest.raises(RecordError, match=rf"faces\.tar.*{message}|{message}") as caught:
        open_data(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_truncated_and_a_damaged_tar_are_found_on_opening(tmp_path):
    whole = (write_tars(tmp_path, LABELS) / "faces-0.tar").read_bytes()
    for damaged in (whole[:30000], whole[:1024] + b"?" * 1024 + whole[2048:]):
        (tmp_path / "faces-0.tar").write_bytes(damaged)
        if damaged[1024:2048] == b"?" * 1024:  # an image: found when it is read
            with pytest.raises(RecordError, match=r"faces-0\.tar: people/0000\.png: its \d+ bytes are no"):
                open_data(tmp_path).read(0)
        else:
            with pytest.raises(RecordError, match=r"faces-0\.tar: "):
                open_data(tmp_path)
    header = whole.index(b"people/0002.png")
    (tmp_path / "faces-0.tar").write_bytes(whole[:header] + b"?" * 512 + whole[header + 512 :])
    with pytest.raises(RecordError, match=rf"there is no header at byte {header}: the file is damaged"):
        open_data(tmp_path)


def test_parquet_with_plain_bytes_and_names_for_labels(tmp_path):
    names = [["ann", "bob", "eve"][label] for label in LABELS]
    dataset = open_data(write_parquet(tmp_path, names, plain=True))
    assert (dataset.labels().tolist(), dataset.identities) == (LABELS, ["ann", "bob", "eve"])
    assert dataset.name_of(5) == f"{tmp_path}/data/train-00001-of-00002.parquet: row 1"


def test_parquet_files_that_cannot_be_used_are_one_line(tmp_path, monkeypatch):
    write_parquet(tmp_path, LABELS)
    for names, what in (("IMAGES", "images"), ("LABELS", "labels")):
        with monkeypatch.context() as patch:
            patch.setattr(f"loading.readers.parquet.{names}", ())
            patch.setattr(f"loading.readers.parquet._is_{what[:-1]}", lambda kind: False)
            with pytest.raises(
                RecordError, match=rf"expected a column of {what}.* it has image.*label \(int64\)"
            ):
                open_data(tmp_path)
    monkeypatch.setattr("loading.readers.parquet.LARGE_GROUP", 2)
    assert "its row groups hold up to 3 images" in open_data(tmp_path).warnings[0]
    first = tmp_path / "data" / "train-00000-of-00002.parquet"
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(RecordError, match=rf"{re.escape(str(first))}: .") as caught:
        open_data(tmp_path)
    assert "\n" not in str(caught.value)


def parquet_of(folder, name: str, **columns):
    """A file in groups of two rows."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(columns), folder / f"{name}.parquet", row_group_size=2)
    return folder


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None, 1, None], r"a\.parquet: 2 rows have no label"),
        ([0, -1, 1, 1], r"a\.parquet: row 1 has label -1; allowed: integers from 0"),
        ([0, 1, 5, 1], r"a\.parquet: row 2 has label 5; allowed: 0…1 \(num_classes\)"),
    ],
)
def test_labels_of_parquet_files_are_checked_on_opening(labels, message, tmp_path):
    parquet_of(tmp_path, "a", image=[b"x"] * 4, label=labels)
    with pytest.raises(RecordError, match=message):
        open_data(tmp_path, num_classes=2 if 5 in labels else None)


def test_parquet_files_without_rows_or_with_other_columns_are_named(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    types = dict(image=arrow.array([], arrow.binary()), label=arrow.array([], arrow.int64()))
    with pytest.raises(RecordError, match=r"a\.parquet holds no row"):
        open_data(parquet_of(tmp_path, "a", **types))
    parquet_of(tmp_path, "b", image=[b"x"], identity=[1])
    with pytest.raises(RecordError, match=r"b\.parquet has no column 'label', which a\.parquet has"):
        open_data(tmp_path)
    (tmp_path / "a.parquet").unlink(), (tmp_path / "b.parquet").unlink()
    with pytest.raises(
        RecordError, match=r"expected a column of images .*; it has one \(binary\), two \(bin"
    ):
        open_data(parquet_of(tmp_path, "a", one=[b"x"], two=[b"x"], label=[1]))


def test_a_row_of_a_parquet_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "beside.png").write_bytes(png(picture(3)))
    places = [{"bytes": None, "path": name} for name in ("beside.png", "missing.png", None)]
    folder = parquet_of(tmp_path, "a", image=[*places, {"bytes": b"", "path": "x"}], label=[0, 1, 0, 1])
    dataset = open_data(folder)
    assert np.array_equal(dataset.read(0)[0], picture(3))
    for row, message in (
        (1, r"missing\.png: No such file or directory"),
        (2, "^.* has no image$"),
        (3, "^.* has no image$"),
    ):
        with pytest.raises(RecordError, match=rf"a\.parquet: row {row}.*") as caught:
            dataset.encoded(row)
        assert re.search(message, str(caught.value))
    file = tmp_path / "a.parquet"
    whole = file.read_bytes()
    file.write_bytes(bytes(600) + whole[600:])  # the data, not the end that was read on opening
    with pytest.raises(RecordError, match=r"a\.parquet: row 0: |a\.parquet: row 0 has") as caught:
        dataset.encoded(0)
    assert "\n" not in str(caught.value)


def test_lmdb_with_features_beside_the_images(tmp_path):
    assert open_data(write_lmdb(tmp_path, LABELS, features=True)).labels().tolist() == LABELS


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"__len__": 7}, "__keys__ has 8, __len__ says 7, __classnum__ 3: expected"),
        ({"__keys__": "01234567"}, "__keys__ is a str, not a list"),
        ({"__classnum__": 2}, r"key 3 has label 2; allowed: 0…1 \(__classnum__\)"),
        ({"__classnum__": 0}, "__keys__ has 8, __len__ says 8, __classnum__ 0: expected"),
        ({"__keys__": list(range(8))}, "__keys__ has 8, .*: expected as many keys as images"),
        ({"1": [b"x"]}, r"key 1 is not \[encoded image, label\] or"),
        ({"1": ["text", 1]}, r"key 1 is not \[encoded image, label\] or"),
        ({"1": "no list"}, r"key 1 is not \[encoded image, label\] or"),
        ({"1": [b"x", -1]}, "key 1 has label -1; allowed: 0…2"),
        ({"1": [b"x", True]}, "key 1 has label True; allowed: 0…2"),
        ({"1": [b"x", 1.0]}, "key 1 has label 1.0; allowed: 0…2"),
    ],
)
def test_an_lmdb_that_cannot_be_used_is_one_line(entries, message, tmp_path):
    write_lmdb(tmp_path, LABELS, **entries)
    with pytest.raises(RecordError, match=rf"faces\.lmdb: {message}"):
        open_data(tmp_path).labels()


def test_one_of_several_lmdb_files_has_to_be_named(tmp_path):
    write_lmdb(tmp_path, LABELS)
    (tmp_path / "other.lmdb").write_bytes(b"")
    with pytest.raises(
        RecordError, match=r"holds faces\.lmdb, other\.lmdb: name one of them, as rec=.*faces"
    ):
        open_data(tmp_path)


def test_a_truncated_lmdb_is_told(tmp_path):
    file = write_lmdb(tmp_path, LABELS) / "faces.lmdb"
    file.write_bytes(file.read_bytes()[:-8192])
    with pytest.raises(RecordError, match=r"faces\.lmdb is truncated: it has [\d,]+ bytes, its pages take"):
        open_data(tmp_path)
    file.write_bytes(b"no LMDB" * 9999)
    with pytest.raises(RecordError, match=r"faces\.lmdb: "):
        open_data(tmp_path)


def test_an_lmdb_of_another_layout_is_told(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    pytest.importorskip("msgpack")
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as transaction:
        transaction.put(b"0", b"image")
    with pytest.raises(RecordError, match="__keys__ is missing: expected the layout of Vec2Face"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("kind", "package", "install"), [("parquet", "pyarrow", "pyarrow"), ("lmdb", "lmdb", "lmdb msgpack")]
)
def test_a_package_that_is_missing_is_named_with_the_command(kind, package, install, tmp_path, monkeypatch):
    WRITERS[kind](tmp_path, LABELS)
    for name in (package, f"{package}.parquet"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ValueError, match=rf"to read .* files takes {package}.*: pip install {install}$"):
        open_data(tmp_path)
