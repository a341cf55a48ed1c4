"""What the ranks agree on, so that none goes on with something else, and none waits for one that left.

Two things cross the network here, as short texts over the CPU: errors (`failing_together`) and values that
have to be equal (`compare_ranks`). Every rank calls both at the same places, so that each exchange of one
rank meets an exchange of the others, and the error of one rank ends all of them with the same message.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from utils.command_line import one_line
from utils.distributed import gather_texts, has_process_group, start_process_group, world_size
from utils.frozen import to_builtin

NOTHING = "nothing"  # what a message says of a value that one side does not have
NUM_TOLD = 3  # differences that a message names


class Disagreement(ValueError):
    """An error that every rank raises, at the same place and with the same message."""


@contextmanager
def failing_together() -> Iterator[None]:
    """What fails inside on one rank fails on every rank, with the message of that rank.

    Reading the config comes before there is a process group. A rank that fails there joins the group only to
    say so; the others hear it at their first exchange. Inside, ranks may not talk to one another but through
    this module.

    Raises:
        Disagreement: another rank failed.
    """
    try:
        yield
    except Disagreement:
        raise
    except Exception as error:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            raise
        if not has_process_group():
            start_process_group()
        is_ours = not isinstance(error, (ValueError, OSError))  # then it keeps its traceback
        try:
            _exchange({"error": f"{type(error).__name__}: {error}" if is_ours else one_line(error)})
        except Disagreement as told:
            if not is_ours:
                raise told from error
        raise
    if has_process_group():
        _exchange({})


def compare_ranks(values: Mapping[str, Any], remedy: str) -> None:
    """Raise on every rank where one has other values than rank 0.

    Args:
        values: numbers, texts, and lists and dicts of such, by name.
        remedy: the end of the message.
    Raises:
        Disagreement: it names the first such rank, and both values of the first differences.
    """
    everyone = [message.get("values", {}) for message in _exchange({"values": to_builtin(values)})]
    for number, own in enumerate(everyone):
        if found := differences(own, everyone[0]):
            raise Disagreement(f"rank {number} has {tell(found, 'rank 0 has')}: {remedy}")


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


def _exchange(message: dict) -> list[dict]:
    """Every rank's message. Disagreement, on every rank, where one of them is an error."""
    messages = [json.loads(text) for text in gather_texts(json.dumps(message))]
    errors = {number: m["error"] for number, m in enumerate(messages) if "error" in m}
    if errors:
        number, error = next(iter(errors.items()))
        alike = len(errors) == world_size() and len(set(errors.values())) == 1
        raise Disagreement(error if alike else f"rank {number}: {error}")
    return messages
