"""A backbone whose training passes run compiled: `compile=true`.

torch.compile makes one program of a forward pass and one of its backward pass, in which element-wise
operations are fused: on a GPU fewer launches and fewer passes over memory. Random numbers are drawn by the
operations that draw them otherwise, so that dropout, masks and drop paths are those of a plain run, also one
that is resumed. In float32 the results differ from a plain run's by rounding.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.log_files import LOGGER_NAME

LOGGER = logging.getLogger(LOGGER_NAME)
BACKEND = "inductor"
MAX_SHAPES = 6  # that are compiled, minutes each on a large network; torch itself stops at 8


class CompiledBackbone(nn.Module):
    """Runs `backbone` compiled where it trains, and as it is in evaluation and without gradients.

    Each batch size is compiled on its own, on its first batch: that of a step, and ARoFace's smaller one.
    After MAX_SHAPES of them others run as they are. Where compiling fails, without a compiler for example,
    there is one warning, and from then on all runs as it is. The backbone itself stays the same object with
    the same parameters, so that checkpoints know nothing of this.

    Args:
        backend: of torch.compile; None: BACKEND.
    """

    def __init__(self, backbone: nn.Module, backend: str | Callable | None = None):
        super().__init__()
        self.backbone = backbone
        # In DistributedDataParallel torch would make a program for each bucket of gradients.
        torch._dynamo.config.optimize_ddp = False
        # Else an error in compiling the backward pass would come where nobody can go on without it.
        torch._functorch.config.force_non_lazy_backward_lowering = True
        backend = backend or BACKEND
        options = {"fallback_random": True} if backend == "inductor" else None
        settings = dict(fullgraph=True, dynamic=False, backend=backend, options=options)
        self._compiled = torch.compile(backbone.forward, **settings)
        self._shapes: set[tuple] = set()
        self._failed = False

    def forward(self, images: Tensor) -> Tensor:
        """What the backbone makes of the images."""
        if self._failed or not self.backbone.training or not torch.is_grad_enabled():
            return self.backbone(images)
        shape = len(images), images.requires_grad
        if shape not in self._shapes:
            if len(self._shapes) == MAX_SHAPES:
                return self.backbone(images)
            self._shapes.add(shape)
            LOGGER.info("compiling the backbone for batches of %d images", len(images))
        try:
            return self._compiled(images)
        except Exception as error:  # of any kind: of the compiler, of what it calls, of what is not installed
            embeddings = self.backbone(images)  # raises what is wrong with the images or the network itself
            self._failed = True
            reason = " ".join(str(error).split("\n")[:2])  # after these come advice and stacks
            text = "compile=true: the backbone could not be compiled and runs as it is (%s: %s)"
            LOGGER.warning(text, type(error).__name__, reason.strip())
            return embeddings
