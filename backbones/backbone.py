"""What all backbones share: the input, where half precision ends, and blocks recomputed instead of stored."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from utils.batch_norm import FrozenBatchStatistics


class Backbone(nn.Module):
    """Aligned faces to embeddings: a `trunk` in whatever precision autocast chooses, and a `tail` in float32.

    A family defines `trunk(images)`, `tail(maps)` and `embedding_weight`, the state_dict key whose tensor is
    `(num_features, ...)`: it tells families apart in a file.

    Args:
        fp16: open float16 autocast for the trunk, on whichever device the images are; an outer
            `torch.autocast` is respected without it.
        grad_checkpointing: keep only the input of each block and run the block again in the backward pass:
            about a third more compute, and memory for one block's activations instead of all of them. The
            gradients and the running statistics are those of a plain run.
    """

    embedding_weight: str
    input_order = "RGB"  # load_backbone() sets "BGR" on networks that were trained so

    def __init__(self, *, fp16: bool = False, grad_checkpointing: bool = False):
        super().__init__()
        self.fp16 = fp16
        self.grad_checkpointing = grad_checkpointing

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings `(N, num_features)`, float32, not normalised, of images `(N, 3, 112, 112)` in [-1, 1].

        Raises:
            ValueError: the images have another shape, or are no floating-point numbers.
        """
        if images.shape[1:] != (3, 112, 112) or not images.is_floating_point():
            raise ValueError(
                "a backbone takes float images (N, 3, 112, 112) in [-1, 1], got "
                f"{images.dtype} {tuple(images.shape)}: align faces to 112 x 112, put the channels first, "
                "and map v to (v / 255 - 0.5) / 0.5"
            )
        device = images.device.type
        with torch.autocast(device, torch.float16) if self.fp16 else nullcontext():
            maps = self.trunk(images)
        # Half precision keeps 3 digits: too few for sums over thousands of inputs that end up in a cosine.
        with torch.autocast(device, enabled=False):
            return self.tail(maps.to(self.get_parameter(self.embedding_weight).dtype))

    def run_blocks(self, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
        """`x` through the blocks in turn, recomputing each in the backward pass if grad_checkpointing."""
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        for block in blocks:
            x = _checkpointed(block, x) if recompute else block(x)
        return x


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    # The second run must not count the batch a second time.
    contexts = (nullcontext(), FrozenBatchStatistics(block))
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: contexts)


def check_counts(setting: str, counts: Sequence[int], length: int) -> None:
    """Raises ValueError unless `counts` are `length` whole numbers of at least 1."""
    if len(counts) != length or any(not isinstance(count, int) or count < 1 for count in counts):
        numbers = "whole number" if length == 1 else "whole numbers"
        raise ValueError(f"{setting} takes {length} {numbers} of at least 1, got {counts}")


def kaiming_init(model: nn.Module) -> None:
    """The initialisation of MobileFaceNet and AdaFace's networks: He et al.'s, by the number of outputs."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
