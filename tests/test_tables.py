"""Tables of text: the same columns however lines end, and one line of error that names the row."""

import numpy as np
import pytest

from eval.readers import tables
from eval.readers.tables import read_rows

PAIRS = {"first": int, "second": int, "same": int}
FACES = {"name": str, "template": int, "score": float}


def write(path, text, newline="\n"):
    path.write_bytes(text.replace("\n", newline).encode())
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["", "\n"])
def test_columns_are_the_same_however_lines_end(tmp_path, newline, mark, end):
    blanks = write(tmp_path / "a.txt", f"{mark}1.jpg 7 .5\n  2b.jpg\t8 1e-2{end}", newline)
    commas = write(tmp_path / "a.csv", f'{mark}NAME,T,S\n1.jpg,7,.5\n"2b.jpg", 8 ,1e-2{end}', newline)
    for table in (read_rows(blanks, FACES), read_rows(commas, FACES, header=True, delimiter=",")):
        assert table["name"] == ["1.jpg", "2b.jpg"]
        assert (table["template"].tolist(), table["template"].dtype) == ([7, 8], np.int64)
        assert (table["score"].tolist(), table["score"].dtype) == ([0.5, 0.01], np.float64)
    pairs = read_rows(write(tmp_path / "pairs.txt", f"{mark}1 2 1\n1  30\t0{end}", newline), PAIRS)
    assert [column.tolist() for column in pairs.values()] == [[1, 1], [2, 30], [1, 0]]


def test_further_columns_are_skipped_where_they_are_allowed(tmp_path):
    path = write(tmp_path / "a.csv", 'ID,FILE,NOTE\n3,a.jpg,\n4,b.jpg,"x, y"\n')
    columns = {"id": int, "file": str}
    table = read_rows(path, columns, header=True, delimiter=",", extra=True)
    assert (table["id"].tolist(), table["file"]) == ([3, 4], ["a.jpg", "b.jpg"])
    with pytest.raises(ValueError, match=r"line 1: 3 columns, expected 2 \(id, file\): 'ID,FILE,NOTE'"):
        read_rows(path, columns, header=True, delimiter=",")
    write(path, "ID,FILE,NOTE\n3,a.jpg,\n4,b.jpg\n")
    with pytest.raises(ValueError, match=r"line 3: 2 columns, expected 3 \(id, file, …\): '4,b.jpg'"):
        read_rows(path, columns, header=True, delimiter=",", extra=True)


def test_of_equal_rows_the_first_is_kept_with_its_line_and_all_are_checked(tmp_path):
    rows = ["7,a.jpg,1", '7,"a.jpg",2', "8,a.jpg,1", "7,a.jpg,1", "7,b.jpg,1", "8,a.jpg,3"]
    path, columns = write(tmp_path / "a.csv", "\n".join(["ID,FILE,BOX", *rows])), {"id": int, "file": str}
    options = {"header": True, "delimiter": ",", "extra": True, "distinct": True}
    table = read_rows(path, columns, **options)
    assert (table["id"].tolist(), table["file"]) == ([7, 8, 7], ["a.jpg", "a.jpg", "b.jpg"])
    assert table["line"].tolist() == [2, 4, 6]
    for row, message in (
        ("7,a.jpg", "line 8: 2 columns, expected 3"),
        ("x,a.jpg,1", "line 8: id is 'x', expected an integer"),
        ("", "line 8: it is empty"),
    ):
        write(path, "\n".join(["ID,FILE,BOX", *rows, row, "7,a.jpg,1"]))
        with pytest.raises(ValueError, match=message):
            read_rows(path, columns, **options)


def test_integers_take_the_quick_path_and_read_the_same(tmp_path, monkeypatch):
    numbers = np.random.default_rng(0).integers(-(2**62), 2**62, (1000, 3))
    path = write(tmp_path / "pairs.txt", "\n".join("{} {} {}".format(*row) for row in numbers))
    slow = read_rows(path, {**PAIRS, "same": str})
    monkeypatch.setattr(tables, "parse", None)  # not called
    quick = read_rows(path, PAIRS)
    assert np.array_equal(np.stack(list(quick.values()), axis=1), numbers)
    assert all(column.flags.c_contiguous for column in quick.values())
    assert np.array_equal(slow["first"], quick["first"])
    assert slow["same"] == [str(number) for number in numbers[:, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 1\n1 2\n", r"line 2: 2 columns, expected 3 \(first, second, same\): '1 2'"),
        ("1 2 1\n1 2 0 5\n", "line 2: 4 columns, expected 3"),
        ("1 2\n1 2\n", "line 1: 2 columns, expected 3"),
        ("1 2 1\n\n1 3 0\n", "line 2: it is empty"),
        ("1 2 1\n \t\n1 3 0\n", "line 2: it is empty"),
        ("\n1 2 1\n", "line 1: it is empty"),
        ("\n\n", "holds no rows"),
        ("1 2 1\n1 x 0\n", "line 2: second is 'x', expected an integer"),
        ("1 2 1\n1 3 0.5\n", "line 2: same is '0.5', expected an integer"),
        ("1 2 1\n1 3_4 0\n", "line 2: second is '3_4', expected an integer"),
        ("1 2 1\n1 3 99999999999999999999\n", "line 2: same is '9+', expected an integer"),
        ("T1 T2 SAME\n1 2 1\n", "line 1: first is 'T1', expected an integer"),
        ("", "holds no rows"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_malformed_row_is_reported_by_file_and_line(tmp_path, text, message, newline):
    path = write(tmp_path / "pairs.txt", text, newline)
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(path, PAIRS)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("N,T,S\n\na.jpg,1,0.5\n", "line 2: it is empty"),
        ("N,T,S\n,1,0.5\n", "line 2: name is '', expected a text"),
        ("N,T,S\na.jpg,1,nan\n", "line 2: score is 'nan', expected a finite number"),
        ("N,T,S\na.jpg,,1\n", "line 2: template is '', expected an integer"),
        ("a.jpg,1,0.5\nb.jpg,2,0.5\n", "line 1: expected a header, got '1' for template"),
        ('N,T,S\na.jpg,1,0.5\n"b.jpg,2,0.5\n', "line 3: unexpected end of data"),
        ("N,T,S\n", "holds no rows"),
        ("N T S\na.jpg 1 0.5\n", "line 1: 1 columns, expected 3"),
    ],
)
def test_a_malformed_csv_is_reported_by_file_and_line(tmp_path, text, message):
    path = write(tmp_path / "faces.csv", text)
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(path, FACES, header=True, delimiter=",")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["\n\n", "\n \t\n\n", "\n" * 5000])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_empty_lines_below_the_last_row_count_for_nothing(tmp_path, end, newline):
    path = write(tmp_path / "pairs.txt", f"1 2 1\n1 3 0{end}", newline)
    assert read_rows(path, PAIRS)["second"].tolist() == [2, 3]
    assert read_rows(path, PAIRS | {"same": str})["same"] == ["1", "0"]
    path = write(tmp_path / "faces.csv", f"N,T,S\na.jpg,1,0.5{end}", newline)
    assert read_rows(path, FACES, header=True, delimiter=",")["name"] == ["a.jpg"]


def test_what_is_no_text_is_reported(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\x80\x04\x95 1\n")  # a pickle
    for columns in (PAIRS, FACES):
        with pytest.raises(ValueError, match=r"a.csv is no text in UTF-8 \(invalid start byte at byte 0\)"):
            read_rows(tmp_path / "a.csv", columns)
    with pytest.raises(FileNotFoundError, match=r"no file .*none.csv"):
        read_rows(tmp_path / "none.csv", FACES)
