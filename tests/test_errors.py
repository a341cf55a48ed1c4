"""Checks of arguments: unknown names and wrong types are errors that say what is allowed."""

import re

import pytest

from utils.errors import check_arguments, nearest


class Network:
    def __init__(self, blocks: tuple[int, int], scale: float = 1.0, *, num_features: int = 512, **options):
        pass


def test_arguments_that_fit_pass():
    check_arguments("network 'a'", Network, {"blocks": (1, 2), "scale": 2, "num_features": 8})
    check_arguments("network 'a'", Network, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"block": (1, 2)},
            "network 'a' has no setting 'block'; did you mean 'blocks'? (it has: blocks, scale)",
        ),
        ({"options": {}}, "network 'a' has no setting 'options' (it has: blocks, scale)"),
        ({"self": 1}, "network 'a' has no setting 'self' (it has: blocks, scale)"),
        ({"num_features": 8}, "network 'a' has no setting 'num_features' (it has: blocks, scale)"),
        (
            {"scale": 2, "blocks": (1, "2")},
            "network 'a': blocks=(1, '2') is of the wrong type: it has to be 2 values (an integer each)",
        ),
        ({"scale": True}, "network 'a': scale=True is of the wrong type: it has to be a number"),
    ],
)
def test_the_first_argument_that_does_not_fit_is_named_with_what_does(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        check_arguments("network 'a'", Network, arguments, hidden=["num_features"])


def test_a_function_without_arguments_says_so():
    with pytest.raises(ValueError, match=re.escape("loss 'none' has no setting 'm' (it has: none)")):
        check_arguments("loss 'none'", lambda: None, {"m": 1})


def test_only_a_near_name_is_a_near_miss():
    assert nearest("arcfase", ["cosface", "arcface"]) == "; did you mean 'arcface'?"
    assert nearest("arcface", ["softmax"]) == ""
