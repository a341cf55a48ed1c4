"""BatchNorm over the batch of all ranks, on a CPU too (torch's SyncBatchNorm takes only tensors of a GPU).

With it W ranks train to the weights of one rank that has the whole batch. The batches of the ranks need not
be equally large; a rank without an image takes part too. Gradients of the input are those of the whole batch;
gradients of scale and bias are each rank's own share, which DDP or a sum over the ranks puts together.

Crossing the network, with C channels: 2C + 1 numbers from each rank to each in the forward pass, a sum of 2C
numbers in the backward pass. So each rank has to run the same layers in the same order.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from utils.distributed import all_gather_rows, all_reduce, world_size

HALF = (torch.float16, torch.bfloat16)


class _Synchronised:
    """Mix-in before a BatchNorm of torch. In training on several ranks it normalises by all their images.

    Attributes:
        over_ranks: False: by this rank's images alone, as torch does, and without a word to the others.
    """

    over_ranks = True

    def forward(self, x: Tensor) -> Tensor:
        """`(n, C)` or `(n, C, ...)`, n may differ between the ranks -> normalised, in the type of x."""
        if not self.training or not self.over_ranks or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        y, mean, variance, count = Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.running_mean is not None:
            self.num_batches_tracked.add_(1)
            momentum = self.momentum
            if momentum is None:  # the mean over all batches so far
                momentum = 1 / self.num_batches_tracked.to(mean.dtype)
            unbiased = variance * (count / (count - 1).clamp_min(1))
            for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.add_((new.to(running.dtype) - running) * momentum)
        return y


class SyncBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the batch of all ranks."""


class SyncBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batch of all ranks."""


SYNCHRONISED = {nn.BatchNorm1d: SyncBatchNorm1d, nn.BatchNorm2d: SyncBatchNorm2d}


def convert_sync_batch_norm(module: nn.Module) -> None:
    """Make each BatchNorm inside `module` one over all ranks, in place; parameters and buffers stay the same.

    Raises:
        ValueError: there is none.
    """
    norms = [part for part in module.modules() if type(part) in SYNCHRONISED]
    if not norms:
        raise ValueError(f"sync_bn=true would be ignored: {type(module).__name__} has no BatchNorm")
    for norm in norms:
        norm.__class__ = SYNCHRONISED[type(norm)]  # the same object: whoever refers to it has it too


def prepare_batch_norm(network: nn.Module, sync_bn: bool, loader) -> None:
    """Make BatchNorm in the network, in training mode, what `sync_bn` says, if batches are large enough.

    Args:
        loader: its `batch_size` is of a micro-batch of all ranks, `smallest_part` of the rank with fewest.
    Raises:
        ValueError: no BatchNorm to synchronise that learns; a batch of one image, which has no variance.
    """
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    learning = [part for part in norms if part.training]  # those that are frozen need no batch
    if sync_bn and norms and not learning:
        raise ValueError("sync_bn=true would be ignored: every BatchNorm is frozen")
    if sync_bn:
        convert_sync_batch_norm(network)
    fewest = loader.batch_size if sync_bn else loader.smallest_part
    if fewest < 2 and learning:
        remedy = "" if sync_bn or loader.batch_size < 2 else ", or sync_bn=true"
        raise ValueError(
            f"batch_size or global_batch leaves one image for a rank and micro-batch, and BatchNorm in "
            f"{type(network).__name__} needs two: a larger one, fewer ranks or gradient_acc{remedy}"
        )


@contextmanager
def local_batch_norm(module: nn.Module) -> Iterator[None]:
    """While entered, BatchNorm in `module` looks at this rank's batch alone and talks to no other rank."""
    norms = [part for part in module.modules() if isinstance(part, _Synchronised)]
    for norm in norms:
        norm.over_ranks = False
    try:
        yield
    finally:
        for norm in norms:
            norm.over_ranks = True


class Normalise(torch.autograd.Function):
    """(x − mean) / sqrt(variance + eps) · weight + bias, with the statistics of all ranks.

    Statistics are float32 for half precision, else of the type of x. Means and sums of squared distances from
    them are put together by the formula of Chan, Golub and LeVeque ("Updating formulae and a pairwise
    algorithm for computing sample variances", 1979), not from sums of squares, which cancel where the mean is
    large.

    Returns:
        The result; then, without a gradient, mean `(C,)`, biased variance `(C,)` and number of values of each
        channel, 0-dim, over all ranks. These three are equal on every rank, bit for bit.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float):
        mean, variance, count = global_statistics(x)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, *_):
        """The gradient of x for the whole batch; those of weight and bias from this rank's images alone.

        Args:
            gradient: as x, `(n, C, ...)`, of this rank's part of the result.
        """
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        dims, per_channel = dims_of(x)
        centred = x - mean.view(per_channel)  # promoted to the type of the statistics
        product = centred * gradient
        sums = torch.stack([gradient.sum(dims, dtype=mean.dtype), product.sum(dims)])  # (2, C)
        mean_gradient, mean_product = (all_reduce(sums.clone()) / count).unbind()
        # scale · (gradient − mean_gradient − centred / variance · mean_product), in two passes
        scale = inverse_std if weight is None else inverse_std * weight
        offset, slope = -scale * mean_gradient, -scale * inverse_std.square() * mean_product
        grad_x = torch.addcmul(offset.view(per_channel), centred, slope.view(per_channel), out=product)
        grad_x = grad_x.addcmul_(gradient, scale.view(per_channel)).to(x.dtype)
        _, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_weight = (sums[1] * inverse_std).to(weight.dtype) if needs_weight else None
        grad_bias = sums[0].to(weight.dtype) if needs_bias else None
        return grad_x, grad_weight, grad_bias, None


def global_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean `(C,)`, biased variance `(C,)` and number of values of each channel, over all ranks."""
    dtype = torch.float32 if x.dtype in HALF else x.dtype
    dims, per_channel = dims_of(x)
    num_values = x.numel() // x.shape[1]
    # torch.var_mean takes ten times as long on a CPU. At least 1: a rank without an image brings zeros.
    mean = x.sum(dims, dtype=dtype) / max(num_values, 1)
    variance = (x - mean.view(per_channel)).square_().sum(dims) / max(num_values, 1)
    count = mean.new_full((1,), num_values)
    of_ranks = all_gather_rows(torch.cat([mean, variance, count])[None], [1] * world_size())  # (W, 2C + 1)
    means, variances, counts = of_ranks.split([len(mean), len(mean), 1], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    return mean, variance, count


def dims_of(x: Tensor) -> tuple[list[int], list[int]]:
    """The dimensions that statistics go over, and the shape of one value for each channel."""
    return [dim for dim in range(x.ndim) if dim != 1], [1, -1] + [1] * (x.ndim - 2)
