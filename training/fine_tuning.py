"""Fine-tuning in the loop: learning rates of the layers, and the time in which class centres learn alone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Rates = dict[
    nn.Parameter, tuple[int, float]
]  # (how many layers from the output, factor of the learning rate)


def rates_of_layers(cfg, backbone: nn.Module) -> Rates:
    """For each parameter of the backbone its level and the factor by which its learning rate differs from lr.

    It is `lr_backbone` / lr, times `layer_decay` for each layer between it and the output (as BEiT and MAE
    are fine-tuned). A layer is a block of a stage, or what the network has beside them. Without layer_decay
    all have level 0.
    """
    base = 1.0 if cfg.lr_backbone is None else cfg.lr_backbone / cfg.lr
    levels = dict.fromkeys(backbone.parameters(), 0) if cfg.layer_decay == 1 else levels_of(backbone)
    return {parameter: (level, base * cfg.layer_decay**level) for parameter, level in levels.items()}


@torch.no_grad()
def levels_of(backbone: nn.Module) -> dict[nn.Parameter, int]:
    """For each parameter the number of layers after its own; the last one's is 0.

    The order is that in which a forward pass comes to them, which costs one image.
    """
    names = {module: name for name, module in backbone.named_modules()}
    order: dict[str, None] = {}  # layers as they come

    def note(module: nn.Module, *_) -> None:
        if any(True for _ in module.parameters(recurse=False)):
            order.setdefault(layer_of(names[module]))

    hooks = [module.register_forward_hook(note) for module in backbone.modules() if module is not backbone]
    training, device = backbone.training, next(backbone.parameters()).device
    try:
        backbone.eval()(torch.zeros(1, 3, 112, 112, device=device))
    finally:
        backbone.train(training)
        for hook in hooks:
            hook.remove()
    last = len(order) - 1
    places = {layer: last - i for i, layer in enumerate(order)}
    # A parameter of the network itself, such as the positions of a vision transformer, is at its start.
    named = backbone.named_parameters()
    return {parameter: places.get(layer_of(name.rpartition(".")[0]), last) for name, parameter in named}


def layer_of(name: str) -> str:
    """The layer of a module: its name as far as the first number, which counts the blocks: "layer1.0"."""
    name = name.partition(".parametrizations")[0]
    block = re.match(r".*?\.\d+(?=\.|$)", name)
    return block[0] if block else name


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """`lr` for the class centres, and for each group of the backbone by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


class HeadWarmup:
    """The first `num_steps` steps, in which the backbone neither learns nor changes.

    New centres point anywhere, and their first gradients would spoil trained weights.

        with warmup(step):
            embeddings = ddp(images)

    Args:
        total_steps: of the run.
    Raises:
        ValueError: the backbone would never learn.
    """

    def __init__(self, backbone: nn.Module, num_steps: int, total_steps: int):
        if num_steps >= total_steps:
            raise ValueError(
                f"head_warmup_epoch is {num_steps} steps, and the run has {total_steps}: the backbone would "
                "never learn; lower it, or say freeze=[*] to train the class centres alone"
            )
        self.backbone, self.num_steps = backbone, num_steps

    @contextmanager
    def __call__(self, step: int) -> Iterator[None]:
        """Around the backbone's forward pass of this step, counted from 0; or around a function's call."""
        if step >= self.num_steps:
            yield
            return
        self.backbone.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.backbone.train()


def as_rgb(images: tuple[Tensor, ...], input_order: str) -> tuple[Tensor, ...]:
    """Images as a network sees them, each `(n, 3, h, w)`, with the colours that people see."""
    return tuple(part.flip(1) for part in images) if input_order == "BGR" else images
