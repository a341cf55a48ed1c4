"""RecordIO: files of MXNet itself, every payload there and back, and files that do not fit each other."""

import json
import multiprocessing
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.records import GOLDENS
from utils import recordio
from utils.recordio import MAGIC, MAGIC_BYTES, IndexedRecordReader, IndexedRecordWriter, RecordError

FACTS = json.loads((GOLDENS / "recordio.json").read_text())


def open_rec(folder: Path) -> IndexedRecordReader:
    return IndexedRecordReader(folder / "train.idx", folder / "train.rec")


def write_rec(folder: Path, records: list) -> Path:
    with IndexedRecordWriter(folder / "train.idx", folder / "train.rec") as file:
        for record in records:
            file.write(*record)
    return folder


def test_multipart_records_of_mxnet_read_as_recorded():
    reader = open_rec(GOLDENS / "multipart")
    assert [reader.read(key)[1].hex() for key in reader.keys] == FACTS["multipart"]["payload_hex"]


def test_keys_and_label_arrays_of_mxnet_read_as_recorded():
    reader = open_rec(GOLDENS / "plain")
    assert reader.keys.tolist() == FACTS["plain"]["keys"]
    labels = [reader.read(key)[0] for key in reader.keys]
    assert all(label.dtype == np.float32 and len(label) == 2 for label in labels)
    assert [label[0] for label in labels] == FACTS["plain"]["labels"]


def test_header_and_identities_of_mxnet_read_as_recorded():
    reader, n = open_rec(GOLDENS / "insightface"), FACTS["insightface"]["n"]
    assert reader.read(0)[0].tolist() == [n + 1, n + 1 + FACTS["insightface"]["num_classes"]]
    assert [int(reader.read(key)[0][0]) for key in range(1, n + 1)] == FACTS["insightface"]["labels"]
    assert (reader.read(n + 1)[0].tolist(), reader.read(n + 1)[1]) == ([1, 5], b"")


@pytest.mark.parametrize("layout", ["insightface", "plain", "multipart"])
def test_written_bytes_equal_those_of_mxnet(layout, tmp_path):
    reader = open_rec(GOLDENS / layout)
    with IndexedRecordWriter(tmp_path / "train.idx", tmp_path / "train.rec") as file:
        for key in reader.keys.tolist():
            label, payload = reader.read(key)
            file.write(key, label if layout == "plain" or len(label) > 1 else label[0], payload)
    for name in ("train.idx", "train.rec"):
        assert (tmp_path / name).read_bytes() == (GOLDENS / layout / name).read_bytes()


pieces = st.lists(st.one_of(st.binary(max_size=9), st.just(MAGIC_BYTES)), max_size=8).map(b"".join)
numbers = st.one_of(st.floats(width=32, allow_nan=False), st.just(struct.unpack("<f", MAGIC_BYTES)[0]))
labels = st.one_of(numbers, st.lists(numbers, min_size=1, max_size=5))


@given(st.lists(st.tuples(labels, pieces), min_size=1, max_size=5))
def test_every_label_and_payload_comes_back(tmp_path_factory, contents):
    folder = write_rec(tmp_path_factory.mktemp("rec"), [(5 * i, *c) for i, c in enumerate(contents)])
    reader = open_rec(folder)
    for key, (label, payload) in zip(reader.keys, contents):
        assert reader.read(key)[0].tolist() == (label if isinstance(label, list) else [label])
        assert reader.read(key)[1] == payload
    expected = [reader.read(key)[0][0] for key in reader.keys]
    assert reader.first_labels(reader.keys).tolist() == expected
    for found, payload, first, (label, content) in zip(*reader.read_plain(reader.keys), expected, contents):
        if MAGIC_BYTES in np.float32(label).tobytes() + content:  # it may be split
            assert payload is None or (found, payload) == (first, content)
        else:
            assert (found, payload) == (first, content)
    shutil.rmtree(folder)


def test_magic_number_stands_at_no_border_but_that_of_a_part(tmp_path):
    write_rec(tmp_path, [(0, 1.0, MAGIC_BYTES * 3 + b"abc" + MAGIC_BYTES)])
    words = np.frombuffer((tmp_path / "train.rec").read_bytes(), "<u4")
    heads = np.flatnonzero(words == MAGIC)
    sizes = [((words[at + 1] & recordio.MAX_PART) + 3) // 4 for at in heads]
    assert len(heads) == 4  # the one after "abc" is not at a border
    assert [words[at + 1] >> 29 for at in heads] == [1, 2, 2, 3]
    assert heads.tolist() == np.cumsum([0, *(2 + size for size in sizes[:-1])]).tolist()


def test_labels_read_in_bulk_survive_a_split_within_the_header(tmp_path):
    with IndexedRecordWriter(tmp_path / "train.idx", tmp_path / "train.rec") as file:
        file.write(3, [4.0, 5.0], b"payload", id=MAGIC << 32 | MAGIC)
        file.write(1, 6.0, b"", id2=MAGIC)
    reader = open_rec(tmp_path)
    assert reader.first_labels(np.array([1, 3, 1]), chunk=2).tolist() == [6, 4, 6]


def _sum_of_payload(reader: IndexedRecordReader) -> int:
    return sum(sum(reader.read(key)[1]) for key in reader.keys)


def test_a_reader_travels_to_other_processes_without_the_file():
    reader = open_rec(GOLDENS / "plain")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_sum_of_payload, [reader] * 2) == [_sum_of_payload(reader)] * 2
    assert len(pickle.dumps(reader)) < 10_000  # the .rec has 170,000 bytes


def test_an_unknown_key_is_named():
    reader = open_rec(GOLDENS / "plain")
    with pytest.raises(RecordError, match=r"train\.idx: no record 24 among its 24 keys 0…23"):
        reader.read(24)


def lines_without(number: int):
    def change(folder: Path) -> None:
        lines = (folder / "train.idx").read_text().splitlines(keepends=True)
        del lines[number]
        (folder / "train.idx").write_text("".join(lines))

    return change


def index_text(text: str):
    return lambda folder: (folder / "train.idx").write_text(text)


def cut_rec(size: int):
    def change(folder: Path) -> None:
        content = (folder / "train.rec").read_bytes()
        (folder / "train.rec").write_bytes(content[: size % len(content)])

    return change


BROKEN = {
    "no .idx": (lambda f: (f / "train.idx").unlink(), r"train\.idx: no such file"),
    "no .rec": (lambda f: (f / "train.rec").unlink(), r"train\.rec: no such file"),
    "empty .idx": (index_text(""), r"train\.idx is empty"),
    "blank .idx": (index_text("\n \n"), r"train\.idx: expected"),
    "empty .rec": (cut_rec(0), r"train\.rec is empty"),
    "word in .idx": (index_text("0\tzero\n"), r"train\.idx: expected lines 'key<TAB>byte offset'.*zero"),
    "lone key": (index_text("0\t0\n1\n"), r"train\.idx: expected lines"),
    "one column": (index_text("0\n1\n"), r"train\.idx: expected two numbers a line.*got 1"),
    "key twice": (index_text("0\t0\n0\t44\n"), r"train\.idx: key 0 occurs more than once"),
    "negative offset": (index_text("0\t-4\n"), r"record 0 cannot start at byte -4"),
    "odd offset": (index_text("0\t0\n1\t45\n"), r"record 1 cannot start at byte 45"),
    "offset beyond": (index_text("0\t0\n9\t4000\n"), r"record 9 .* byte 4000, but train\.rec has 1136 bytes"),
    "first line lost": (lines_without(0), r"first record starts at byte 44 of train\.rec"),
    "middle line lost": (
        lines_without(5),
        r"train\.idx does not fit train\.rec: record 4 ends at byte 344, but",
    ),
    "last line lost": (lines_without(-1), r"record 10 ends at byte 992, but the file ends at 1136"),
    "wrong offset": (
        index_text("0\t0\n1\t40\n"),
        r"record 0 ends at byte 44, but its next record starts at 40",
    ),
    "half a .rec": (cut_rec(500), r"train\.rec has 500 bytes: it is truncated"),
    "last record cut": (cut_rec(-5), r"train\.rec: record 11 is truncated: .* ends at 1131"),
    "last head cut": (cut_rec(996), r"train\.rec: record 11 is truncated: .* ends at byte 996"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_do_not_fit_are_refused_on_opening(name, tmp_path):
    for file in ("train.idx", "train.rec"):
        shutil.copy(GOLDENS / "multipart" / file, tmp_path)
    change, message = BROKEN[name]
    change(tmp_path)
    kind = FileNotFoundError if name.startswith("no ") else RecordError
    with pytest.raises(kind, match=message) as caught:
        open_rec(tmp_path)
    assert "\n" not in str(caught.value)


def damage(folder: Path, at: int, content: bytes) -> None:
    with (folder / "train.rec").open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_damage_between_the_probes_is_named_when_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(recordio, "NUM_PROBES", 3)
    write_rec(tmp_path, [(key, 1.0, bytes(20)) for key in range(9)])
    damage(tmp_path, 52 * 2, b"lost")  # the magic number of record 2
    damage(tmp_path, 52 * 3 + 7, b"\x60")  # record 3: a last part without a first one
    damage(tmp_path, 52 * 5 + 8, struct.pack("<I", 99))  # record 5 announces 99 labels
    damage(tmp_path, 52 * 6 + 4, struct.pack("<I", 10))  # record 6: a length shorter than its header
    damage(tmp_path, 52 * 7 + 4, struct.pack("<I", 1000))
    reader = open_rec(tmp_path)
    for key, message in {
        2: "record 2: .* at byte 104, .* 0x74736f6c .* instead of the magic number 0xced7230a",
        3: r"record 3: .* byte 156.* \(kind 3\)",
        5: "record 5 has 44 bytes, too few for its header of 24 bytes and its 99 labels",
        6: "record 6 has 10 bytes, too few",
        7: "record 7 is truncated",
    }.items():
        with pytest.raises(RecordError, match=message):
            reader.read(key)
    with pytest.raises(RecordError, match="record 2"):
        reader.first_labels(reader.keys)
    plain = [None if key in (2, 3, 5, 6, 7) else bytes(20) for key in range(9)]
    assert list(reader.read_plain(reader.keys)[1]) == plain
    assert reader.read(8)[1] == bytes(20)


def test_a_failed_writer_leaves_nothing_and_keeps_what_was_there(tmp_path):
    write_rec(tmp_path, [(0, 1.0, b"old")])
    file = IndexedRecordWriter(tmp_path / "train.idx", tmp_path / "train.rec")
    with pytest.raises(struct.error), file:
        file.write(0, "not a number", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.idx", "train.rec"]
    assert open_rec(tmp_path).read(0)[1] == b"old"


def test_what_the_format_cannot_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(recordio, "MAX_PART", 100)
    with IndexedRecordWriter(tmp_path / "train.idx", tmp_path / "train.rec") as file:
        for record, message in {
            (-1, 0.0, b""): "record -1: a key is not negative",
            (1, (), b""): "record 1: its label array is empty",
            (2, 0.0, bytes(77)): "record 2: 77 bytes are too many",
        }.items():
            with pytest.raises(ValueError, match=message):
                file.write(*record)
        file.write(3, 0.0, bytes(76))
    assert open_rec(tmp_path).keys.tolist() == [3]
