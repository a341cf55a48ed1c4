"""What errors for users are made of: the near miss, and the check of a setting's range."""

import difflib
from collections.abc import Iterable


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The near miss as the end of an error message: "; did you mean 'arcface'?", or "" where none is near."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def require(condition: bool, setting: str, value, allowed: str) -> None:
    """Raise ValueError "setting=value: allowed" unless the condition holds."""
    if not condition:
        raise ValueError(f"{setting}={value!r} is out of range: it has to be {allowed}")
