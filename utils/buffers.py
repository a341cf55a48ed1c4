"""Buffers of a module (running statistics): copied, exchanged for a while, put back."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

Buffers = list[dict[str, Tensor]]  # for each of module.modules(), its own buffers by name


def saved_buffers(module: nn.Module) -> Buffers:
    """Copies of all buffers of the module and of the modules inside it."""
    return [{name: buffer.clone() for name, buffer in own.items()} for own in _buffers(module)]


@contextmanager
def with_buffers(module: nn.Module, saved: Buffers) -> Iterator[None]:
    """While entered, the module has the buffers `saved`; then it has its own again, the same tensors.

    What the module writes in place meanwhile, it writes to `saved`.
    """
    present = _buffers(module)
    try:
        _exchange(module, saved)
        yield
    finally:
        _exchange(module, present)


def _buffers(module: nn.Module) -> Buffers:
    return [dict(part.named_buffers(recurse=False)) for part in module.modules()]


def _exchange(module: nn.Module, buffers: Buffers) -> None:
    for part, own in zip(module.modules(), buffers):
        for name, buffer in own.items():
            setattr(part, name, buffer)
