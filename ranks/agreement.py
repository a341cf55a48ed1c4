"""Values that have to be equal on every rank, and how a difference is told."""

from collections.abc import Mapping
from typing import Any

from ranks.fail_together import exchange
from utils.errors import GroupError
from utils.frozen import to_builtin

NOTHING = "nothing"  # what a message says of a value that one side does not have
NUM_TOLD = 3  # differences that a message names


def compare_ranks(values: Mapping[str, Any], remedy: str) -> None:
    """Raise on every rank where one has other values than rank 0.

    Args:
        values: numbers, texts, and lists and dicts of such, by name.
        remedy: the end of the message.
    Raises:
        GroupError: it names the first such rank, and both values of the first differences.
    """
    everyone = exchange(to_builtin(values))
    for number, own in enumerate(everyone):
        if found := differences(own, everyone[0]):
            raise GroupError(f"rank {number} has {tell(found, 'rank 0 has')}: {remedy}")


def differences(one: Mapping, other: Mapping, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(name, value in `one`, value in `other`) of what is not equal; parts of dicts as name.part."""
    found = []
    for key in {**one, **other}:
        first, second = one.get(key, NOTHING), other.get(key, NOTHING)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            found += differences(first, second, f"{prefix}{key}.")
        elif first != second:
            found.append((f"{prefix}{key}", first, second))
    return found


def tell(found: list[tuple[str, Any, Any]], other: str) -> str:
    """The first differences as text: "lr 0.5, rank 0 has 0.05; seed 2, rank 0 has 1"."""
    text = "; ".join(f"{name} {first}, {other} {second}" for name, first, second in found[:NUM_TOLD])
    return text + (f"; and {len(found) - NUM_TOLD} more" if len(found) > NUM_TOLD else "")
