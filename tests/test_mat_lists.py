"""Lists of names in MATLAB files: as published, nested otherwise, and malformed."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from eval.readers.mat_lists import read_identities, read_name_pairs
from helpers.tinysurv_trees import cells


def write(path: Path, **variables) -> Path:
    savemat(path, variables)
    return path


def test_names_and_ids_are_read_however_matlab_nested_them(tmp_path):
    names = ["1_3.jpg", "22_1.jpg", "22_2.jpg"]
    numbers = np.array([[1], [22], [22]])
    deeper = cells([(np.array([name], dtype=object),) for name in names])
    for variant in (
        {"gallery_set": cells(names), "gallery_ids": numbers.astype(np.uint16)},
        {"gallery_set": cells(names).T, "gallery_ids": numbers.astype(float).T},
        {"gallery_set": cells(names), "gallery_ids": cells([1, 22, 22])},
        {"gallery_set": deeper, "gallery_ids": cells(["1", "22", "22"])},
        {"gallery_set": np.array(names), "gallery_ids": numbers},  # characters, padded with blanks
        {"gallery_set": cells(list(zip(names, (1, 22, 22))))},
        {"gallery_set": cells([("a/b/" + name, str(i)) for name, i in zip(names, (1, 22, 22))])},
    ):
        read, ids = read_identities(write(tmp_path / "a.mat", **variant), "gallery_set", "gallery_ids")
        assert read == names
        assert (ids.tolist(), ids.dtype) == ([1, 22, 22], np.int64)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"galery_set": cells(["1_1.jpg"])}, r"'gallery_set'; did you mean 'galery_set'\? .*holds gal"),
        ({}, r"no variable 'gallery_set' \(it holds nothing\)"),
        ({"gallery_set": cells(["1_1.jpg"])}, "'gallery_set' is 1 x 1 and there is no 'gallery_ids'"),
        ({"gallery_set": cells([("1_1.jpg", 1, 2)])}, "'gallery_set' is 1 x 3"),
        ({"gallery_set": cells(["1_1.jpg"]), "gallery_ids": np.ones((2, 1))}, "1 names .* 2 ids"),
        ({"gallery_set": np.zeros((0, 2))}, "'gallery_set' is empty"),
        ({"gallery_set": cells([("1_1.jpg", 1), (7.5, 1)])}, "row 2: 7.5 is no file name"),
        ({"gallery_set": cells([("1_1.jpg", 1), ("  ", 1)])}, "row 2: '  ' is no file name"),
        ({"gallery_set": cells([("1_1.jpg", 1), ("1_2.jpg", 1.5)])}, "row 2: 1.5 is no identity"),
        ({"gallery_set": cells([("1_1.jpg", "one"), ("1_2.jpg", 1)])}, "row 1: 'one' is no identity"),
        ({"gallery_set": cells([("1_1.jpg", np.nan)])}, "row 1: nan is no identity"),
        ({"gallery_set": cells([("1_1.jpg", "1_0")])}, "row 1: '1_0' is no identity"),
        (
            {"gallery_set": cells(["a.jpg"]), "gallery_ids": np.array([[1 << 63]], np.uint64)},
            "row 1: 9223372036854775808 is no identity, expected a whole number of 64 bits with sign",
        ),
        ({"gallery_set": np.ones((1, 1)) * 1j}, "'gallery_set' is a complex matrix, expected numbers, text"),
    ],
)
def test_a_malformed_list_is_reported_with_file_and_row(tmp_path, variables, message):
    path = write(tmp_path / "list.mat", **variables)
    with pytest.raises(ValueError, match=message) as caught:
        read_identities(path, "gallery_set", "gallery_ids")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda ids: ids, lambda ids: cells([str(i) for i in ids.ravel()])])
def test_identities_of_more_than_53_bits_stay_apart(tmp_path, wrap):
    ids = np.array([[(1 << 53) + 1], [1 << 53], [(1 << 63) - 1]], np.uint64)
    path = write(tmp_path / "a.mat", names=cells(["a.jpg", "b.jpg", "c.jpg"]), ids=wrap(ids))
    assert read_identities(path, "names", "ids")[1].tolist() == ids.ravel().tolist()


def test_pairs_have_two_names_a_row(tmp_path):
    pairs = [("1_a.jpg", "1_b.jpg"), ("2_a.jpg", "3_b.jpg")]
    assert read_name_pairs(write(tmp_path / "a.mat", pairs=cells(pairs)), "pairs") == pairs
    with pytest.raises(ValueError, match="'pairs' is 2 x 1, expected P x 2"):
        read_name_pairs(write(tmp_path / "a.mat", pairs=cells(["1_a.jpg", "b"])), "pairs")
    with pytest.raises(ValueError, match="row 1: 3 is no file name"):
        read_name_pairs(write(tmp_path / "a.mat", pairs=cells([("1_a.jpg", 3)])), "pairs")


def test_files_of_other_formats_are_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no list .*none.mat"):
        read_name_pairs(tmp_path / "none.mat", "pairs")
    # What MATLAB writes with -v7.3: its own header of 128 bytes, version 2, in front of HDF5.
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x00" * 384 + b"\x89HDF\r\n\x1a\n"
    (tmp_path / "new.mat").write_bytes(header)
    with pytest.raises(ValueError, match=r"MATLAB 7\.3 file: save it again with `save -v7`"):
        read_name_pairs(tmp_path / "new.mat", "pairs")
    good = write(tmp_path / "good.mat", pairs=cells([("a.jpg", "b.jpg")])).read_bytes()
    for name, content in (("text.mat", b"1_1.jpg 1\n"), ("none.mat", b""), ("cut.mat", good[:200])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is no MATLAB file"):
            read_name_pairs(tmp_path / name, "pairs")
