"""Buffers and parameters of a module: copied, exchanged for a while, put back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
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


@contextmanager
def exchanged(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """While entered, these tensors stand where the module has its parameters and buffers of those names.

    Wherever it has them: a module or a tensor that is registered under several names is exchanged under all.
    """
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    substitutes = {id(own[name]): tensor for name, tensor in tensors.items()}
    places = [
        (table, name, present)
        for part in module.modules()
        for table in (part._parameters, part._buffers)
        for name, present in table.items()
        if id(present) in substitutes
    ]
    try:
        for table, name, present in places:
            table[name] = substitutes[id(present)]
        yield
    finally:
        for table, name, present in places:
            table[name] = present


class FlatBuffers:
    """All buffers of a module in one piece of memory for each type of number, the same tensors as before.

    One copy remembers them all, and one `torch.where` puts them back: a network has hundreds of them, and on
    a GPU each operation costs a launch. Where a module has put another tensor in a buffer's place (`self.mean
    = ...`), the buffer takes over its values and comes back.
    """

    ALIGNMENT = 16  # numbers; the start of a buffer is where an allocation of its own would start, or nearly

    def __init__(self, module: nn.Module):
        by_type: dict[tuple, list[Tensor]] = {}
        for buffer in module.buffers():
            by_type.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        self.places = [
            (part._buffers, name, buffer)
            for part in module.modules()
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]
        self.flat = [self._joined(buffers) for buffers in by_type.values()]
        self.remember()

    def _joined(self, buffers: list[Tensor]) -> Tensor:
        widths = [-(-buffer.numel() // self.ALIGNMENT) * self.ALIGNMENT for buffer in buffers]
        flat = buffers[0].new_zeros(sum(widths))
        for buffer, place in zip(buffers, flat.split(widths)):
            place = place[: buffer.numel()].view(buffer.shape)
            buffer.data = place.copy_(buffer)
        return flat

    @torch.no_grad()
    def remember(self) -> None:
        """Copy their present values."""
        self._take_over()
        self.copies = [flat.clone() for flat in self.flat]

    @torch.no_grad()
    def put_back(self, where: Tensor) -> None:
        """Give them the values that were remembered, where `where`, a number on their device, is not 0."""
        self._take_over()
        for flat, copy in zip(self.flat, self.copies):
            torch.where(where > 0, copy, flat, out=flat)

    def _take_over(self) -> None:
        for table, name, buffer in self.places:
            if (present := table[name]) is not buffer:
                buffer.copy_(present)
                table[name] = buffer
