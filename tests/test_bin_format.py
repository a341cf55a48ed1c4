"""`.bin` files, kind and hostile."""

import os
import pickle
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from eval.readers.bin_sets import load_bin, save_bin
from eval.verification import load_set
from helpers.evaluation_runs import BINS, png


def test_python_2_python_3_and_numpy_sets_hold_the_same_images():
    images, issame = load_bin(BINS / "py3.bin")
    assert (images.shape, images.dtype, issame.dtype) == ((40, 112, 112, 3), np.uint8, bool)
    for name in ("py2.bin", "numpy.bin"):
        others, others_issame = load_bin(BINS / name)
        assert np.array_equal(images, others)
        assert np.array_equal(issame, others_issame)


def test_images_come_out_as_rgb(tmp_path):
    save_bin(tmp_path / "a.bin", [png(), png((1, 2, 3))], [False])
    images, issame = load_bin(tmp_path / "a.bin")
    assert images[0, 5, 7].tolist() == [200, 100, 50]
    assert images[1, 5, 7].tolist() == [1, 2, 3]
    assert issame.tolist() == [False]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [bytes, bytearray, lambda data: np.frombuffer(data, np.uint8)])
def test_every_pickle_protocol_and_type_of_buffer_is_read(tmp_path, protocol, wrap):
    content = ([wrap(png()), wrap(png((9, 8, 7)))], [np.bool_(True)])
    (tmp_path / "a.bin").write_bytes(pickle.dumps(content, protocol))
    images, issame = load_bin(tmp_path / "a.bin")
    assert images[:, 0, 0].tolist() == [[200, 100, 50], [9, 8, 7]]
    assert issame.tolist() == [True]


@pytest.mark.parametrize("dtype", ["bool", "<i8", ">i4", "u1"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_issame_may_be_an_array_of_any_byte_order(tmp_path, dtype, protocol):
    issame = np.array([1, 0, 1], dtype=dtype)
    (tmp_path / "a.bin").write_bytes(pickle.dumps(([png()] * 6, issame), protocol))
    assert load_bin(tmp_path / "a.bin")[1].tolist() == [True, False, True]


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "posix.system": pickle.dumps(Calls(os.system, "touch broken-in")),
    "os.system": b"cos\nsystem\n(S'touch broken-in'\ntR.",
    "builtins.eval": pickle.dumps(Calls(eval, "open('broken-in', 'w')")),
    "__builtin__.eval": b'c__builtin__\neval\n(S\'open("broken-in", "w")\'\ntR.',
    "builtins.getattr": pickle.dumps(Calls(getattr, "broken", "upper")),
    "numpy.load": pickle.dumps(Calls(np.load, "broken-in")),
    "numpy.core.multiarray.fromfile": b"cnumpy.core.multiarray\nfromfile\n(S'broken-in'\ntR.",
    "builtins.dict.fromkeys": b"\x80\x04\x8c\x08builtins\x8c\rdict.fromkeys\x93.",  # an attribute
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_forbidden_name_is_refused_and_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("evil.bin").write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match=f"evil.bin .* {name}"):
        load_bin("evil.bin")
    assert os.listdir() == ["evil.bin"]


@pytest.mark.parametrize(
    "content",
    [
        Calls(np.ndarray, (1,), np.dtype("O"), b"8 bytes."),  # NumPy itself would follow this pointer
        [Calls(np.ndarray, (1,), "O", b"8 bytes.")],
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "O")]),
        np.zeros(2, dtype="V8"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_numpy_is_never_given_a_dtype_of_the_file(tmp_path, content, protocol):
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=r"evil.bin is no verification set"):
        load_bin(tmp_path / "evil.bin")


def call(name: bytes, *arguments: bytes) -> bytes:
    """The pickle of `name(*arguments)`, protocol 2; `name` is b"module name"."""
    return b"\x80\x02c" + name.replace(b" ", b"\n") + b"\n(" + b"".join(arguments) + b"tR"


BILLION = b"\x8a\x04" + (10**9).to_bytes(4, "little")
DTYPE = call(b"numpy dtype", b"U\x02u1")[2:]
RESOURCES = {
    "bytearray of a number": (call(b"builtins bytearray", BILLION) + b".", "makes bytearray of a int"),
    "bytes of a number": (call(b"__builtin__ bytes", BILLION) + b".", "makes bytes of a int"),
    "a text encoded again and again": (
        b"\x80\x02X\x10\x27\0\0"
        + b"a" * 10_000
        + b"q\x000"
        + b"".join(call(b"_codecs encode", b"h\0U\x06latin1")[2:] + b"0" for _ in range(100))
        + b"N.",
        "more of its bytes",
    ),
    "bytes copied again and again": (
        b"\x80\x03B\x10\x27\0\0"
        + b"a" * 10_000
        + b"q\x000"
        + b"".join(call(b"builtins bytearray", b"h\0")[2:] + b"0" for _ in range(100))
        + b"N.",
        "more of its bytes",
    ),
    "an array of objects": (b"\x80\x02" + DTYPE.replace(b"u1", b"O8") + b".", "dtype 'O8', allowed are"),
    "another encoding": (call(b"_codecs encode", b"X\x01\0\0\0aU\x06utf_32") + b".", "as 'utf_32', allowed"),
    "a list of a list": (call(b"builtins list", b"]") + b".", "asks for builtins.list"),
    "an array of a number of bytes": (
        call(b"numpy.core.multiarray _reconstruct") + b"(K\x01K\x01\x85" + DTYPE + b"\x89" + BILLION + b"tb.",
        "an array of a int",
    ),
    "a list of itself": (b"\x80\x02]q\0(h\0h\0e.", "2 images for 2 pairs"),
    "a million references": (
        b"\x80\x02](" + b"N" * 10**6 + b"e](" + b"\x88" * (10**6 // 2) + b"e\x86.",
        "instructions",
    ),
    "a memo of 500 million": (b"\x80\x02Nr\x00\x65\xcd\x1d.", "remembers something as number"),
    "one image for 2,000 pairs": (pickle.dumps(([png()] * 4002, [True] * 2001)), "1 images fill 2001 pairs"),
    "the same in protocol 0": (b"Np500000000\n.", "remembers something as number"),
    "bytes beyond the file": (b"\x80\x04B\xff\xff\xff\x7fxx.", "no verification set"),
    "a set, which has no order": (pickle.dumps(({png(), b"2"}, [True])), r"asks for|does not hold \(images"),
    "a dict": (pickle.dumps(({png(): 1, b"2": 2}, [True])), r"does not hold \(images, issame\)"),
    "pairs in pairs": (pickle.dumps(([png()] * 4, [[True], [False, True]])), "one boolean a pair"),
    "a number of 400 digits": (pickle.dumps(([png()] * 2, [10**400])), "one boolean a pair"),
}


@pytest.mark.parametrize("content", RESOURCES.values(), ids=RESOURCES)
def test_a_small_file_takes_little_memory_and_time(tmp_path, content):
    (tmp_path / "small.bin").write_bytes(content[0])
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(ValueError, match=f"small.bin.*({content[1]})"):
            load_bin(tmp_path / "small.bin")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20  # bytes
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 30  # tracing slows it down


def test_images_that_occur_in_many_pairs_are_read(tmp_path):
    save_bin(tmp_path / "a.bin", [png(), png((1, 2, 3))] * 200, [True, False] * 100)
    assert len(load_bin(tmp_path / "a.bin")[0]) == 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no verification set"),
        (b"not a pickle", "no verification set"),
        ((BINS / "py3.bin").read_bytes()[:5000], "no verification set"),
        (pickle.dumps([1, 2, 3]), r"does not hold \(images, issame\)"),
        (pickle.dumps((1, 2)), r"does not hold \(images, issame\)"),
        (pickle.dumps(([], [])), "0 images for 0 pairs"),
        (pickle.dumps(([png()] * 3, [True])), "3 images for 1 pairs, expected two a pair"),
        (pickle.dumps(([png()] * 2, [7])), "issame has to hold one boolean a pair"),
        (pickle.dumps(([png()] * 2, [None])), "issame has to hold one boolean a pair"),
        (
            pickle.dumps(([png(), png(), png(), b"no image"], [True, False])),
            r"image 3 \(pair 1\): its 8 bytes",
        ),
        (pickle.dumps(([png(), b""], [True])), r"image 1 \(pair 0\): its 0 bytes"),
        (
            pickle.dumps(([png(), png()[:-12]], [True])),
            r"image 1 \(pair 0\): its \d+ bytes are no whole image",
        ),
        (pickle.dumps(([png(), "text"], [True])), r"image 1 \(pair 0\): expected .* got str"),
        (
            pickle.dumps(([png(), png(height=112, width=96)], [True])),
            r"image 1 \(pair 0\): it is 96x112, expected",
        ),
        (
            pickle.dumps(([png(), png(height=96)], [True])),
            r"image 1 \(pair 0\): it is 112x96, expected a square",
        ),
    ],
)
def test_a_damaged_set_is_named_with_what_is_wrong(tmp_path, content, message):
    (tmp_path / "bad.bin").write_bytes(content)
    with pytest.raises(ValueError, match=f"bad.bin.*{message}"):
        load_bin(tmp_path / "bad.bin")


def test_square_images_of_another_size_are_resized(tmp_path):
    ramp = np.repeat(np.linspace(0, 255, 224).astype(np.uint8)[None, :, None], 224, axis=0).repeat(3, axis=2)
    data = cv2.imencode(".png", ramp)[1].tobytes()
    save_bin(tmp_path / "a.bin", [data, png(height=56, width=56)], [False])
    images, _ = load_bin(tmp_path / "a.bin")
    assert np.abs(images[0, 50, :, 0] - np.linspace(0, 255, 112)).max() < 2
    assert (images[1] == (200, 100, 50)).all()


@pytest.mark.parametrize(
    ("issame", "message"),
    [
        ([True, False] * 3, "6 items cannot be split into 10 folds"),
        ([True] * 12, "all 12 pairs are of the same person"),
    ],
)
def test_a_set_that_cannot_be_scored_is_reported_when_it_is_loaded(tmp_path, issame, message):
    save_bin(tmp_path / "few.bin", [png()] * (2 * len(issame)), issame)
    with pytest.raises(ValueError, match=f"few.bin: {message}"):
        load_set(tmp_path / "few.bin")
    assert len(load_bin(tmp_path / "few.bin")[1]) == len(issame)


def test_a_missing_set_is_reported_with_what_is_there(tmp_path):
    save_bin(tmp_path / "agedb_30.bin", [png()] * 2, [True])
    with pytest.raises(FileNotFoundError, match=r"did you mean 'agedb_30.bin'\? .* holds agedb_30.bin"):
        load_bin(tmp_path / "agedb30.bin")
    with pytest.raises(FileNotFoundError, match=r"is a folder, expected a .bin file \(.* holds agedb_30.bin"):
        load_bin(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_bin(tmp_path / "nowhere" / "lfw.bin")
