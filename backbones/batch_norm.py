"""BatchNorm with what stands beside it, in PyTorch or in GPU kernels; running statistics that stay."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.buffers import saved_buffers, with_buffers

KERNEL_TYPES = (torch.float32, torch.float16, torch.bfloat16)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class FrozenBatchStatistics:
    """While entered, BatchNorm in `module` normalises as before but leaves its running statistics alone.

    It updates copies of them. (BatchNorm without statistics would be another computation for autograd, and
    gradient checkpointing compares the two.) A class, because checkpointing enters the same object again.
    """

    def __init__(self, module: nn.Module):
        self.norms = nn.ModuleList(part for part in module.modules() if isinstance(part, _BatchNorm))

    def __enter__(self) -> None:
        self.copies_in_use = with_buffers(self.norms, saved_buffers(self.norms))
        self.copies_in_use.__enter__()

    def __exit__(self, *error) -> None:
        self.copies_in_use.__exit__(*error)


def batch_norm(
    norm: nn.BatchNorm2d, x: Tensor, prelu: nn.PReLU | None = None, shortcut: Tensor | None = None
) -> Tensor:
    """`prelu(norm(x)) + shortcut`, without what is None, of x `(N, C, H, W)`.

    Layer by layer in PyTorch, or as one function where `kernels.choice.choose_kernels` has turned that on.
    """
    if _runs_in_kernels(norm, x, prelu, shortcut):
        return _in_kernels(norm, x, prelu, shortcut)[0]
    x = norm(x)
    if prelu is not None:
        x = prelu(x)
    return x if shortcut is None else x + shortcut


def batch_norm_and_input(norm: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """`norm(x)` and x, for the start of a block.

    Its shortcut goes on with the second, so that in GPU kernels one pass writes the sum of both gradients.
    """
    if _runs_in_kernels(norm, x):
        return _in_kernels(norm, x)
    return norm(x), x


def in_sequence(layers: Iterable[nn.Module], x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """`x` after all layers in turn, plus `shortcut`; a BatchNorm takes along what stands behind it."""
    layers = [part for layer in layers for part in (layer if isinstance(layer, nn.Sequential) else [layer])]
    while layers:
        layer = layers.pop(0)
        if not isinstance(layer, nn.BatchNorm2d):
            x = layer(x)
            continue
        prelu = layers.pop(0) if layers and isinstance(layers[0], nn.PReLU) else None
        if not layers:
            return batch_norm(layer, x, prelu, shortcut)
        x = batch_norm(layer, x, prelu)
    return x if shortcut is None else x + shortcut


def _runs_in_kernels(
    norm: nn.BatchNorm2d, x: Tensor, prelu: nn.PReLU | None = None, shortcut: Tensor | None = None
) -> bool:
    """Whether they are turned on, and fit: what they do not know, and what watches a layer, is PyTorch's."""
    if torch.compiler.is_compiling() or not (getattr(norm, "kernels", False) and norm.training):
        return False
    parts = [norm] if prelu is None else [norm, prelu]
    if any(getattr(part, hooks) for part in parts for hooks in HOOKS):
        return False
    if prelu is not None and len(prelu.weight) != x.shape[1]:
        return False
    if shortcut is not None and (shortcut.dtype != x.dtype or shortcut.shape != x.shape):
        return False
    tensors = [x] if shortcut is None else [x, shortcut]
    return (
        type(norm) is nn.BatchNorm2d  # not one over all ranks
        and norm.affine
        and norm.momentum is not None
        and norm.weight.dtype == torch.float32
        and x.dtype in KERNEL_TYPES
        and x.numel() > x.shape[1]  # of one row PyTorch says what is wrong
        and all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors)
    )


def _in_kernels(
    norm: nn.BatchNorm2d, x: Tensor, prelu: nn.PReLU | None = None, shortcut: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    from backbones.kernels.function import normalise  # needs Triton

    return normalise(norm, x, None if prelu is None else prelu.weight, shortcut)
