"""A pass through a network for the gradient of its input alone, which leaves no trace in the network."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ranks.sync_batch_norm import local_batch_norm


@contextmanager
def only_input_gradient(network: nn.Module) -> Iterator[None]:
    """While entered, weights get no gradient, and BatchNorm has no running statistics to update.

    BatchNorm normalises by this rank's batch as before. Without statistics it saves operations: to copy,
    update and put them back takes nine launches a layer on a GPU. Without gradients of weights autograd keeps
    no inputs for them, and a compiled network does not compute them, which it would do even if nobody asked.
    What is in evaluation mode keeps its statistics.
    """
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.training]
    buffers = [dict(norm._buffers) for norm in norms]
    try:
        for parameter in learnt:
            parameter.requires_grad_(False)
        for norm in norms:
            norm._buffers.update(dict.fromkeys(norm._buffers))
        with local_batch_norm(network):
            yield
    finally:
        for norm, own in zip(norms, buffers):
            norm._buffers.update(own)
        for parameter in learnt:
            parameter.requires_grad_(True)
