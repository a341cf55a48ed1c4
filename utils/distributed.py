"""The process group and the few collectives that the project needs.

There is always a group while training: torchrun's, or a world of one. The read-only helpers also work
without a group (evaluation scripts, tests), where they see a world of one.

The differentiable collectives are the conjugate pair of tensor parallelism (Shoeybi et al., Megatron-LM,
https://arxiv.org/abs/1909.08053) and a gather. They share one convention: a tensor that is equal on every
rank carries a gradient that is equal on every rank. Only inside a shard may gradients be partial.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from utils.launchers import refuse_lone_task
from utils.progress import here
from utils.rendezvous import meet

_timeout = timedelta(minutes=30)  # of the group
CONNECT_S = 60.0  # to reach the store, which answers a busy machine late


def start_process_group(timeout_minutes: float = 30) -> torch.device:
    """Join torchrun's group, or make a world of one; returns this rank's device.

    Args:
        timeout_minutes: after which a collective fails that another rank has not come to.
    Raises:
        ValueError: more ranks were started on this machine than it has GPUs, or this process is one of
            several that know nothing of one another.
        TimeoutError, ConnectionError: another rank did not come, or was lost on the way.
    """
    global _timeout
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available():
        if torch.cuda.device_count() == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
            local_rank = 0  # a scheduler shows each task its own GPU; torchrun shows all of them to all
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"this machine has {torch.cuda.device_count()} GPU(s), but rank {local_rank} (from 0) was "
                "started on it: lower --nproc_per_node, or hide the GPUs with CUDA_VISIBLE_DEVICES= to train "
                "on the CPU"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"  # gloo carries the small integers that must not wait for the GPU
    else:
        device, backend = torch.device("cpu"), "gloo"
    _timeout = timedelta(minutes=timeout_minutes)
    with _losses_explained():
        if "RANK" in os.environ:
            store, own_rank, num_ranks = meet(_timeout)
        else:
            refuse_lone_task()
            store, own_rank, num_ranks = dist.HashStore(), 0, 1
        dist.init_process_group(backend, store=store, rank=own_rank, world_size=num_ranks, timeout=_timeout)
    return device


@contextmanager
def _losses_explained() -> Iterator[None]:
    """An error within that says that a rank is gone becomes one line for the user."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        reason = str(error).splitlines()[0]
        raise ConnectionError(f"a rank was lost while the ranks met: {reason}") from error


def change_timeout(minutes: float | None) -> timedelta:
    """Give the group another time-out, or with None leave it as it is; returns the one that counts."""
    global _timeout
    if minutes is not None:
        _timeout = timedelta(minutes=minutes)
        # Public since torch 2.14; before that under the other name.
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
        set_timeout(_timeout)
    return _timeout


def connect_to_store(prefix: str, timeout_s: float) -> dist.Store:
    """A further connection to the store at which the ranks met, for a thread: keys and values in common.

    It stays where the ranks met: in rank 0's process, or in torchrun's on its machine.

    Args:
        prefix: of the keys; the same on every rank.
        timeout_s: after which a request fails.
    """
    store = dist.distributed_c10d._get_default_store()
    store.set_timeout(timedelta(seconds=CONNECT_S))
    try:
        with _losses_explained():
            connection = store.clone()
    finally:
        store.set_timeout(_timeout)
    connection.set_timeout(timedelta(seconds=timeout_s))
    return dist.PrefixStore(prefix, connection)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error of a collective says that another rank is gone, or did not come in time."""
    text = str(error)
    if isinstance(error, dist.DistBackendError):
        return re.search("remote|timeout|timed out|connection|abort|closed", text, re.IGNORECASE) is not None
    if isinstance(error, dist.DistError):  # of the store
        return True
    # Gloo's have no class of their own; "enforce fail" is what it says of tensors that differ.
    return isinstance(error, RuntimeError) and "gloo/transport" in text and "enforce fail" not in text


def stop_process_group() -> None:
    """Leave the group, if there is one."""
    if has_process_group():
        dist.destroy_process_group()


def has_process_group() -> bool:
    """Whether this process has joined one."""
    return dist.is_initialized()


def rank() -> int:
    """This process among all (not among those of its machine); 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def _meets_others() -> bool:
    """Whether there are other ranks to meet in a collective; counts it, see `Progress.arrivals`."""
    here.arrivals += 1
    return world_size() > 1


def barrier() -> None:
    """Wait until every rank has come here."""
    if _meets_others():
        dist.barrier()


def all_reduce(tensor: Tensor, op: dist.ReduceOp = dist.ReduceOp.SUM) -> Tensor:
    """Reduce `tensor` over the ranks, in place; also returns it."""
    if _meets_others():
        dist.all_reduce(tensor, op)
    return tensor


def all_max(tensor: Tensor) -> Tensor:
    """Elementwise largest over the ranks, in place; also returns it."""
    return all_reduce(tensor, dist.ReduceOp.MAX)


def sum_together(*tensors: Tensor) -> list[Tensor]:
    """Sums over the ranks, of tensors of one type in one collective; in a world of one they come back."""
    return _reduce_together(tensors, dist.ReduceOp.SUM)


def max_together(*tensors: Tensor) -> list[Tensor]:
    """As `sum_together`, elementwise largest."""
    return _reduce_together(tensors, dist.ReduceOp.MAX)


def _reduce_together(tensors: tuple[Tensor, ...], op: dist.ReduceOp) -> list[Tensor]:
    if not _meets_others():
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat, op)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]


def broadcast(tensor: Tensor) -> Tensor:
    """Fill `tensor` with rank 0's values, in place; also returns it. No gradient.

    Every rank brings a tensor of the same shape and type; the values of the other ranks do not matter.
    """
    if _meets_others():
        dist.broadcast(tensor, src=0)
    return tensor


def gather_counts(*own: int) -> list[int]:
    """A number of each rank, in rank order; on the CPU, so that no GPU waits.

    Args:
        own: this rank's; further ones are summed over the ranks, and stand at the end.
    """
    first, *others = own
    counts = torch.zeros(world_size() + len(others), dtype=torch.int64)
    counts[rank()] = first
    counts[world_size() :] = torch.tensor(others, dtype=torch.int64)
    return all_reduce(counts).tolist()


def row_counts(num_rows: int) -> list[int]:
    """How many rows each rank brings to a training step; every rank calls this in each of them.

    One integer more crosses the network: it carries the wishes of ranks to stop into `here.stop_agreed` (see
    ranks/preemption.py).
    """
    *counts, wishes = gather_counts(num_rows, bool(here.stop_wanted))
    here.stop_agreed = here.stop_agreed or wishes > 0
    return counts


def gather_labels(labels: Tensor, room: int) -> tuple[list[int], Tensor]:
    """How many labels each rank brings to a training step, as `row_counts` does, and the labels of all.

    Args:
        labels: `(b,)`, on the CPU; b may differ between ranks.
        room: labels that travel with their number, the same on every rank. If no rank has more, one
            collective is enough; else the labels follow in a second one.
    Returns:
        counts in rank order; `(sum of counts,)`.
    """
    frame = labels.new_zeros(1, 2 + room)
    frame[0, 0], frame[0, 1] = len(labels), bool(here.stop_wanted)
    frame[0, 2 : 2 + len(labels)] = labels[:room]
    frames = all_gather_rows(frame, [1] * world_size())
    counts = frames[:, 0].tolist()
    here.stop_agreed = here.stop_agreed or bool(frames[:, 1].any())
    if max(counts) > room:
        return counts, all_gather_rows(labels, counts)
    return counts, torch.cat([own[2 : 2 + count] for own, count in zip(frames, counts)])


def all_gather_rows(tensor: Tensor, counts: list[int] | None = None) -> Tensor:
    """Rows of every rank, in rank order; no gradient.

    Args:
        tensor: `(n, ...)`; n may differ between ranks, the other dimensions may not.
        counts: what `gather_counts` or `row_counts` returned, where the caller has it already.
    Returns:
        `(sum n, ...)`, equal on every rank. Every rank receives world_size · max n rows.
    """
    if not _meets_others():
        return tensor
    counts = gather_counts(len(tensor)) if counts is None else counts
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])  # gloo and nccl gather equal shapes only
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


def gather_objects(value) -> list:
    """A small Python value of each rank, in rank order, on every rank; it is pickled on the way."""
    if not _meets_others():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class GatherRows(torch.autograd.Function):
    """`all_gather_rows` with a gradient: each rank gets back its own rows, times the world size.

    After the gather comes one loss on the global batch, equal on every rank. DDP will average the backbone's
    gradients over the ranks; the factor turns that mean into the sum that it has to be. This is the only
    place where gradients are scaled.
    """

    @staticmethod
    def forward(ctx, tensor: Tensor, counts: list[int]) -> Tensor:
        ctx.start, ctx.count = sum(counts[: rank()]), len(tensor)
        return all_gather_rows(tensor, counts)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient[ctx.start : ctx.start + ctx.count] * world_size(), None


class CopyToShards(torch.autograd.Function):
    """Identity, at the border into a shard; backward sums the partial gradients of all shards."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable  # a second derivative would miss the other shards
    def backward(ctx, gradient: Tensor) -> Tensor:
        return all_reduce(gradient.contiguous().clone())


class SumOverShards(torch.autograd.Function):
    """Sum over the ranks, at the border out of a shard; backward is the identity."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


@torch.no_grad()
def average_buffers(model: nn.Module, weight: float = 1.0) -> None:
    """Average the floating-point buffers (BatchNorm's running statistics) over the ranks, in place.

    In training each rank collects statistics of its own images. After this every rank
    holds, evaluates and saves the same model, to which all images have contributed.

    Args:
        weight: of this rank's buffers, its share of a batch times the world size: 1 where ranks share evenly.
    """
    buffers = [b for b in model.buffers() if b.is_floating_point()]
    if world_size() == 1 or not buffers:
        return
    # In float64: statistics that are equal on all ranks come out as they went in.
    for buffer, total in zip(buffers, sum_together(*(b.double() * weight for b in buffers))):
        buffer.copy_(total / world_size())
