"""Values that fit an annotation: checked where they come from Python, read where they come as text.

utils/settings.py checks settings with it, utils/errors.py the arguments of losses and networks; it knows no
setting itself. Annotations are those of configs/base.py: bool, int, float, str, dict, None, Literal, list[T],
tuple[T, T, T], unions, and Annotated[number, "[0, 1)"] for an interval.
"""

import numbers
import os
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text", dict: "a dict"}


MAX_DEPTH = 16  # of brackets in brackets


class Mismatch(Exception):
    """The value does not fit the annotation."""


def convert(value: Any, kind: Any) -> Any:
    """`value` as `kind`: an int becomes a float where one is meant, a Path becomes text, no more.

    Raises:
        Mismatch: it does not fit; `describe(kind)` says what would.
    """
    origin, args = get_origin(kind), get_args(kind)
    if is_union(kind):
        for member in args:
            if fits(value, member):
                return convert(value, member)
    elif origin is Annotated:
        number = convert(value, args[0])
        if inside(number, args[1]):
            return number
    elif origin is Literal:
        if value in args:
            return value
    elif origin is list:
        if isinstance(value, (list, tuple)):
            return [convert(item, args[0]) for item in value]
    elif origin is tuple:
        if isinstance(value, (list, tuple)) and len(value) == len(args):
            return tuple(convert(item, member) for item, member in zip(value, args))
    elif kind is bool or kind is types.NoneType or kind is dict:
        if isinstance(value, kind):
            return value
    elif kind is str:
        if isinstance(value, (str, os.PathLike)) and os.fspath(value):
            return os.fspath(value)
    elif isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool):
        return kind(value)
    raise Mismatch


def fits(value: Any, kind: Any) -> bool:
    """Whether `convert` takes the value."""
    try:
        convert(value, kind)
    except Mismatch:
        return False
    return True


def read(text: str, kind: Any) -> Any:
    """Text from the command line as Python, quotes being optional; `convert` then checks the result.

    `[a,b]` and `(1,.5,0)` are lists, `{m: 0.4}` is a dict, none, true and false are as in Python in any case.
    Where only a list can be meant its brackets may be left out.
    """
    members = set(get_args(kind) if is_union(kind) else [kind]) - {types.NoneType}
    only_list = all(get_origin(member) in (list, tuple) for member in members)
    if only_list and text.strip()[:1] not in ("[", "(") and text.strip().lower() != "none":
        text = f"[{text}]"
    return read_literal(text, words=accepts_text(kind) and bool not in members)


def read_literal(text: str, words: bool = False, depth: int = 0) -> Any:
    """Text as None, bool, number, list, dict or text; with `words` only as None, list, dict or text.

    Raises:
        ValueError: lists in lists, or dicts in dicts, deeper than any setting has them.
    """
    text = text.strip()
    if depth > MAX_DEPTH:
        raise ValueError(f"brackets are nested more than {MAX_DEPTH} deep: {text[:20]!r} …")
    if text[:1] + text[-1:] in ("[]", "()"):
        return [read_literal(item, words, depth + 1) for item in split_items(text[1:-1])]
    if text[:1] + text[-1:] == "{}":
        pairs = (item.partition(":") for item in split_items(text[1:-1]))
        return {_key(key): read_literal(value, depth=depth + 1) for key, _, value in pairs}
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.lower() == "none":
        return None
    if words:
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _key(text: str) -> str | None:
    """The key of a dict: text, or None."""
    key = read_literal(text, words=True)
    if not isinstance(key, str | None):
        raise ValueError(f"{text.strip()!r} is no name in a dict")
    return key


def split_items(text: str) -> list[str]:
    """The parts between commas, but for commas inside brackets or quotes; no empty last part."""
    items, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        depth += 0 if quote else (character in "[({") - (character in "])}")
        if character == "," and depth == 0 and not quote:
            items.append("")
        else:
            items[-1] += character
    return items if items[-1].strip() else items[:-1]


def inside(number: float, interval: str) -> bool:
    """Whether the number lies in an interval such as "(0, 1]"; NaN lies in none."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = low < number or (number == low and interval[0] == "[")
    below = number < high or (number == high and interval[-1] == "]")
    return above and below


def describe(kind: Any) -> str:
    """What the annotation allows, in words."""
    origin, args = get_origin(kind), get_args(kind)
    if is_union(kind):
        return " or ".join(describe(member) for member in args)
    if origin is Annotated:
        return f"{describe(args[0])} in {args[1]}"
    if origin is Literal:
        return " or ".join(repr(choice) for choice in args)
    if origin is list:
        return f"a list ({describe(args[0])} each)"
    if origin is tuple:
        return f"{len(args)} values ({describe(args[0])} each)"
    return NAMES.get(kind, "None")


def choices(kind: Any) -> tuple[str, ...]:
    """The names that the annotation allows, for the near miss; empty where it is no choice."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(name for member in get_args(kind) for name in choices(member)) if is_union(kind) else ()


def accepts_text(kind: Any) -> bool:
    """Whether text, or a list of text, fits the annotation."""
    if kind is str or get_origin(kind) is Literal:
        return True
    return get_origin(kind) is not Annotated and any(accepts_text(member) for member in get_args(kind))


def is_union(kind: Any) -> bool:
    """Whether the annotation is `A | B`, in either of Python's two spellings."""
    return get_origin(kind) in (Union, types.UnionType)
