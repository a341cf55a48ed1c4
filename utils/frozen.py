"""Dicts that cannot be changed: a setting that moves during a run would make its own record false."""

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
    """The value with plain dicts and lists all the way down, which JSON and torch.save take; a copy."""
    if isinstance(value, Mapping):
        return {key: to_builtin(item) for key, item in value.items()}
    return [to_builtin(item) for item in value] if isinstance(value, (list, tuple)) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return FrozenDict(value)
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
