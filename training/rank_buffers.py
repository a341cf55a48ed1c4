"""The buffers (running statistics) of each rank, kept in a checkpoint that was not in the schedule.

At a checkpoint of the schedule the ranks average their buffers (`utils.distributed.average_buffers`) and go
on from the mean. A checkpoint out of turn must not do that to the run, which would end with other last bits
than without it. So it holds each rank's own, for a run that goes on with as many ranks.
"""

import torch
from torch import Tensor, nn

from utils.distributed import all_gather_rows, rank, world_size


@torch.no_grad()
def gather_buffers(module: nn.Module) -> Tensor | None:
    """`(ranks, n)`, the same on every rank: floating-point buffers; None where there is nothing to keep."""
    buffers = _floating(module)
    if world_size() == 1 or not buffers:
        return None
    return all_gather_rows(torch.cat([buffer.flatten().float() for buffer in buffers])[None])


@torch.no_grad()
def restore_buffers(module: nn.Module, of_ranks: Tensor) -> None:
    """Give each rank its own of what `gather_buffers` returned, if there are as many ranks as then."""
    if len(of_ranks) == world_size():
        buffers = _floating(module)
        for buffer, own in zip(buffers, of_ranks[rank()].split([buffer.numel() for buffer in buffers])):
            buffer.copy_(own.view_as(buffer))


def _floating(module: nn.Module) -> list[Tensor]:
    return [buffer for buffer in module.buffers() if buffer.is_floating_point()]
