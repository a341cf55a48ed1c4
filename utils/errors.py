"""What errors for users are made of: one line, the near miss, checks of a setting's range, name and type."""

import difflib
import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from utils import typed_values


class GroupError(ValueError):
    """An error that every rank raises, at the same place and with the same message; rank 0 prints it."""


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks; of the operating system's, reason and file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {os.fspath(error.filename)!r}" if error.filename is not None else "")
    return printable(" ".join(str(error).split("\n")), but="\\") or type(error).__name__


def printable(text: str, but: str = "") -> str:
    """The text on one line: a backslash and what cannot be printed, except `but`, as Python writes it."""
    return "".join(c if (c.isprintable() and c != "\\") or c in but else ascii(c)[1:-1] for c in text)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The near miss as the end of an error message: "; did you mean 'arcface'?", or "" where none is near."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def require(condition: bool, setting: str, value, allowed: str) -> None:
    """Raise ValueError "setting=value: allowed" unless the condition holds."""
    if not condition:
        raise ValueError(f"{setting}={value!r} is out of range: it has to be {allowed}")


def check_arguments(
    owner: str, function: Callable, arguments: Mapping[str, Any], *, hidden: Iterable[str] = ()
) -> None:
    """Raise ValueError for a keyword argument that `function` does not have, or whose type is another.

    Args:
        owner: how the error calls the function: "loss 'arcface'".
        function: a function or class; its parameters are annotated as utils/typed_values.py allows.
        hidden: parameters of it that are not the user's to give.
    """
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD and p.name not in hidden]
    kinds = {parameter.name: parameter.annotation for parameter in named}
    for name, value in arguments.items():
        if name not in kinds:
            known = ", ".join(kinds) or "none"
            raise ValueError(f"{owner} has no setting {name!r}{nearest(name, kinds)} (it has: {known})")
        if not typed_values.fits(value, kinds[name]):
            meant = typed_values.describe(kinds[name])
            raise ValueError(f"{owner}: {name}={value!r} is of the wrong type: it has to be {meant}")


def needed_package(module: str, purpose: str, install: str = "") -> ModuleType:
    """Import a package that not everyone needs.

    Args:
        module: what is imported.
        purpose: what needs it, as the beginning of the error: "to read ONNX files".
        install: what pip installs for it, if that has another name or is more.
    Raises:
        ValueError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{purpose} takes {module} ({error}): pip install {install or module}") from error
