"""What all backbones share: the check of the input, the precision of each part, and recomputed blocks."""

import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.batch_norm import FrozenBatchStatistics

LARGEST_PIXEL = 10  # of what can be a normalised image, random numbers of a trial included


class Backbone(nn.Module):
    """Aligned faces to embeddings: a `trunk` in the precision that autocast chooses, and a `tail` in float32.

    timm calls these two forward_features and forward_head. A family defines `trunk(images)`, `tail(maps)`,
    `embedding_weight` and `small`. The settings of the family are the positional parameters of its __init__;
    after them come `num_features`, `dropout` and `**options`, which are the arguments of this class.

    Args:
        fp16: turn on float16 autocast for the trunk, on the device of the images. Without it an outer
            `torch.autocast` decides.
        grad_checkpointing: keep only the input of each block and run the block again in the backward pass.
            This costs about a third more compute, and needs memory for the activations of one block, not of
            all. The gradients and the running statistics are those of a plain run.

    Attributes:
        embedding_weight: the state_dict key of a tensor `(num_features, ...)`. It shows which family is in a
            file.
        small: the settings of a tiny network, with which the tests run every family.
        package: a package that the family needs beyond requirements.txt and imports in __init__, or None.
        network, network_args, num_features: its name, the settings that replace those of the name, and the
            numbers in an embedding: what get_model() was given.
        input_order: order of the colour channels; load_backbone() sets "BGR" where a network was trained so.
        held: modules that stay in evaluation mode, also in training (see pretrained.py).
    """

    embedding_weight: str
    small: dict
    package: str | None = None
    network: str
    network_args: dict
    num_features: int
    input_order = "RGB"
    held: tuple[nn.Module, ...] = ()

    def __init__(self, *, fp16: bool = False, grad_checkpointing: bool = False):
        super().__init__()
        self.fp16 = fp16
        self.grad_checkpointing = grad_checkpointing

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings `(N, num_features)`, float32, not normalised, of images `(N, 3, 112, 112)` in [-1, 1].

        Outside training, on a CPU, the range is looked at too (on a GPU that would wait for it). All from 0
        to 1 is a warning, as very bright images may be so; `eval.embedding.embed` takes bytes, without doubt.

        Raises:
            ValueError: the images have another shape, are no floating-point numbers, or look like bytes.
        """
        if images.shape[1:] != (3, 112, 112) or not images.is_floating_point():
            raise ValueError(
                "a backbone takes float images (N, 3, 112, 112) in [-1, 1], got "
                f"{images.dtype} {tuple(images.shape)}: align faces (tools/align.py), put the channels "
                "first, and map v to (v / 255 - 0.5) / 0.5"
            )
        if not self.training and images.device.type == "cpu" and not _is_exported():
            check_range(images)
        device = images.device.type
        with torch.autocast(device, torch.float16) if self.fp16 else nullcontext():
            maps = self.trunk(images)
        # Half precision has 3 digits: too few for sums over thousands of inputs that end in a cosine.
        with torch.autocast(device, enabled=False):
            return self.tail(maps.to(next(self.parameters()).dtype))

    def train(self, mode: bool = True) -> "Backbone":
        """As in torch, but for the modules in `held`."""
        super().train(mode)
        for part in (part for module in self.held for part in module.modules()):
            part.training = False
        return self

    @classmethod
    def is_available(cls) -> bool:
        """Whether the package that this family needs, if any, is installed."""
        return cls.package is None or find_spec(cls.package) is not None

    def run_blocks(self, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
        """`x` after all blocks in turn; with grad_checkpointing the backward pass recomputes each of them."""
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        for block in blocks:
            x = _checkpointed(block, x) if recompute else block(x)
        return x


def check_range(images: Tensor) -> None:
    """Require pixels that can be in [-1, 1]; all of [0, 1] is a warning.

    Raises:
        ValueError: larger numbers than any normalisation gives, those of bytes.
    """
    if images.numel() == 0:
        return
    low, high = (bound.item() for bound in images.aminmax())
    remedy = "a backbone takes [-1, 1], map bytes v to (v / 255 - 0.5) / 0.5"
    if max(-low, high) > LARGEST_PIXEL:
        raise ValueError(f"the images' pixels are from {low:.4g} to {high:.4g}, as bytes are: {remedy}")
    if 0 <= low < high <= 1:
        text = f"the images' pixels are from {low:.4g} to {high:.4g}: if they were divided by 255, {remedy}"
        warnings.warn(text, stacklevel=3)


def _is_exported() -> bool:
    """Whether this pass is recorded for another program, in which no check of values can be."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    # The second run must not update the running statistics a second time.
    contexts = (nullcontext(), FrozenBatchStatistics(block))
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: contexts)


def check_counts(setting: str, counts: Sequence[int], length: int) -> None:
    """Raises ValueError unless `counts` are `length` whole numbers of at least 1."""
    if len(counts) != length or any(not isinstance(count, int) or count < 1 for count in counts):
        numbers = "whole number" if length == 1 else "whole numbers"
        raise ValueError(f"{setting} takes {length} {numbers} of at least 1, got {counts}")


def kaiming_init(model: nn.Module) -> None:
    """The initialisation of MobileFaceNet and AdaFace's networks, that of He et al. by number of outputs."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
