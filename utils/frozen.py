"""Dicts that cannot be changed: what a run records of its settings must stay true while it runs.

utils/config.py hands out a loaded config as one; `to_builtin` makes ordinary dicts and lists of it again.
"""

from collections.abc import Mapping
from typing import Any

from easydict import EasyDict

from utils.errors import nearest


class FrozenDict(EasyDict):
    """A dict with attributes that cannot be changed; lists inside become tuples, dicts become FrozenDicts."""

    def __init__(self, values: Mapping):
        for key, value in values.items():
            dict.__setitem__(self, key, _frozen(value))

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the config has no setting {name!r}{nearest(name, self)}") from None

    def _refuse(self, *_args, **_kwargs):
        raise TypeError("the config is frozen after loading: set values in its file or as key=value")

    __setattr__ = __setitem__ = __delattr__ = __delitem__ = __ior__ = _refuse
    update = pop = popitem = clear = setdefault = _refuse

    def __reduce__(self):  # for workers that are spawned, and for copies
        return type(self), (to_builtin(self),)


def to_builtin(value: Any) -> Any:
    """A copy with dict and list in place of all mappings, lists and tuples: for JSON and torch.save."""
    if isinstance(value, Mapping):
        return {key: to_builtin(item) for key, item in value.items()}
    return [to_builtin(item) for item in value] if isinstance(value, (list, tuple)) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return FrozenDict(value)
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
