"""Text from the command line, and intervals."""

import math

import pytest

from utils import typed_values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1.5", 1.5),
        (".5", 0.5),
        ("true", True),
        ("None", None),
        ("word", "word"),
        ("'1'", "1"),
        ("[1, [2, 3], {a: 4}]", [1, [2, 3], {"a": 4}]),
        ("(1,)", [1]),
        ("[]", []),
        ("{}", {}),
        ("['a,b', c]", ["a,b", "c"]),
    ],
)
def test_text_reads_as_the_python_it_looks_like(text, value):
    got = typed_values.read_literal(text)
    assert got == value
    assert type(got) is type(value)


def test_intervals_include_the_ends_they_name():
    assert typed_values.inside(1, "(0, 1]")
    assert not typed_values.inside(0, "(0, 1]")
    assert typed_values.inside(0, "[0, 1)")
    assert not typed_values.inside(1, "[0, 1)")
    assert not typed_values.inside(math.inf, "[0, inf)")
    assert not typed_values.inside(math.nan, "[0, inf)")


@pytest.mark.parametrize(
    "text", ["[" * 600 + "]" * 600, "(" * 600 + ")" * 600, "{a:" * 600 + "1" + "}" * 600, "{[a]: 1}"]
)
def test_brackets_without_end_are_one_clear_line(text):
    with pytest.raises(ValueError, match=r"nested more than 16 deep|is no name in a dict") as caught:
        typed_values.read_literal(text)
    assert len(str(caught.value)) < 200
