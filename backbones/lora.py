"""Low-rank adaptation: a trained weight W stays, and a product B A of low rank is learnt beside it.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, https://arxiv.org/abs/2106.09685;
for low-quality faces: Narayan et al., "PETALface", WACV 2025, https://arxiv.org/abs/2412.07771. A convolution
is adapted as the matrix of its outputs by all that one output sees.

Departure: the layer computes with W + alpha / rank · B A, not with two branches. So it costs the same
multiplications as before plus one small product a layer and step, merging changes no bit, and every layer
of the networks here can be adapted without knowing of it. (There is no dropout on the branch.)
"""

import math
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from utils.errors import nearest, require

INSIDE = ".parametrizations."  # in the state_dict keys of an adapted layer


class LowRank(nn.Module):
    """W -> W + scale · up @ down; `up` starts at zero, so that nothing changes at first.

    Args:
        weight: `(outputs, ...)`, of a linear layer or a convolution.
        rank: of the product, >= 1.
        scale: its factor.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float):
        super().__init__()
        outputs, inputs = weight.shape[0], weight[0].numel()
        self.scale = scale
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        self.down = nn.Parameter(torch.randn(rank, inputs, dtype=weight.dtype) / math.sqrt(inputs))

    def forward(self, weight: Tensor) -> Tensor:
        # In half precision small updates would vanish beside the weight.
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.up @ self.down).view_as(weight)


def add_lora(
    backbone: nn.Module, rank: int = 8, alpha: float | None = None, layers: list[str] | None = None
) -> None:
    """Freeze all weights, and adapt the linear layers and the convolutions without groups, in place.

    Args:
        rank: of the adapters.
        alpha: their product is scaled by alpha / rank; None: alpha = rank.
        layers: names of modules, with wildcards ("blocks.*.attn.qkv"); None: all that can be adapted.
    Raises:
        ValueError: a setting out of range, or a pattern that fits no layer.
    """
    require(rank >= 1, "lora.rank", rank, ">= 1")
    require(alpha is None or 0 < alpha < math.inf, "lora.alpha", alpha, "> 0, or None")
    names = [name for name, module in backbone.named_modules() if can_be_adapted(module)]
    chosen = names if layers is None else [n for n in names if any(fnmatchcase(n, p) for p in layers)]
    for pattern in layers or []:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = nearest(pattern, names) or f"; there are {', '.join(names[:3])} …"
            raise ValueError(
                f"lora.layers: {pattern!r} is no linear layer or convolution without groups{near}"
            )
    backbone.requires_grad_(False)
    for name in chosen:
        layer = backbone.get_submodule(name)
        adapter = LowRank(layer.weight, rank, (rank if alpha is None else alpha) / rank)
        parametrize.register_parametrization(layer, "weight", adapter.to(layer.weight.device))


def can_be_adapted(module: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution without groups."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def merged_name(name: str) -> str:
    """Of a parameter or a state_dict key: the one that has its place in the network without adapters."""
    layer, inside, _ = name.partition(INSIDE)
    return f"{layer}.weight" if inside else name


@torch.no_grad()
def merged_state_dict(backbone: nn.Module) -> dict[str, Tensor]:
    """The state_dict of the same network without adapters, their products being in the weights."""
    merged = {}
    for key, tensor in backbone.state_dict().items():
        layer, inside, rest = key.partition(INSIDE)
        if not inside:
            merged[key] = tensor
        elif rest == "weight.original":
            merged[f"{layer}.weight"] = backbone.get_submodule(layer).weight.detach()
    return merged
