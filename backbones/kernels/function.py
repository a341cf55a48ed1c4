"""BatchNorm of the training step, with PReLU and a shortcut, as one function for autograd.

Forward: one pass reads x for the statistics, one reads x (and the shortcut) and writes the result. Backward:
one pass reads x and the gradient for the sums, one reads both and writes the gradient of x. Between them lie
sums of some hundred rows. For the way back PyTorch keeps x and the input of PReLU, and this keeps x alone.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from backbones.kernels.launch import Kernels, Running, Vectors


def normalise(
    norm: nn.BatchNorm2d, x: Tensor, slope: Tensor | None, shortcut: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`prelu(norm(x)) + shortcut`, without what is None, and x again.

    Whoever goes on with the second x lets its gradient join that of the first in the pass that writes it.

    Args:
        norm: in training mode; where it has running statistics they are moved on.
        x, shortcut: `(N, C, H, W)` in channels_last, of one type.
        slope: `(C,)`, of PReLU.
    """
    has_statistics = norm.running_mean is not None
    running = Running(norm.running_mean, norm.running_var, norm.num_batches_tracked)
    settings = norm.eps, running if has_statistics else None, norm.momentum
    return _Normalise.apply(x, norm.weight, norm.bias, slope, shortcut, settings)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, slope, shortcut, settings):
        ctx.set_materialize_grads(False)
        kernels = Kernels(x, has_prelu=slope is not None)
        mean, inverse_std = kernels.statistics(x, *settings)
        vectors = Vectors(mean, inverse_std, weight, bias, weight if slope is None else slope)
        ctx.save_for_backward(x, *vectors)
        ctx.kernels = kernels
        return kernels.normalise(x, shortcut, vectors), x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor | None, beside: Tensor | None):
        """Gradients of what `forward` got; given are those of the result and of the second x, or None."""
        if gradient is None:  # only the second x went on
            return beside, None, None, None, None, None
        x, *vectors = ctx.saved_tensors
        vectors, kernels = Vectors(*vectors), ctx.kernels
        needs_x, needs_weight, needs_bias, needs_slope, needs_shortcut, _ = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        grad_x, by_bias, by_weight, by_slope = None, None, None, None
        if needs_x or needs_weight or needs_bias or needs_slope:
            sums = kernels.sums(x, gradient, vectors)
            by_bias, by_weight, *by_slope = sums
        if needs_x:
            if beside is not None:
                beside = beside.contiguous(memory_format=torch.channels_last)
            grad_x = kernels.input_gradient(x, gradient, beside, vectors, sums)
        return (
            grad_x,
            by_weight if needs_weight else None,
            by_bias if needs_bias else None,
            by_slope[0] if needs_slope else None,
            gradient if needs_shortcut else None,
            None,
        )
