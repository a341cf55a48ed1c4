"""The backbone of a training run, its gradients averaged over the ranks where there are others."""

import warnings
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.distributed import world_size


class NothingToAverage(nn.Module):
    """Takes the place of DistributedDataParallel: in a world of one, or where a model has nothing to learn.

    DistributedDataParallel would copy each gradient there too, divide it by one, and keep the copies; and it
    refuses a model that has nothing to learn.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.no_sync = nullcontext

    def forward(self, *inputs):
        return self.module(*inputs)


def data_parallel(model: nn.Module, device: torch.device) -> DistributedDataParallel | NothingToAverage:
    """The model, its gradients averaged over the ranks; each rank keeps buffers of its own."""
    if world_size() == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
        return NothingToAverage(model)
    # Newer versions of torch call the argument forward_sync_buffers, which older ones do not know.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
