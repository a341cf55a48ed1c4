"""Whether BatchNorm of a training run runs in the GPU kernels of this folder, or in PyTorch."""

import importlib.util

import torch
from torch import nn

# (compute capability, precision) of the cards on which a row of docs/performance.md shows that the kernels
# are right and a training step faster: backbone_kernels="auto" means on there. None was measured yet.
MEASURED: frozenset[tuple[tuple[int, int], str]] = frozenset()


def choose_kernels(cfg, backbone: nn.Module, device: torch.device) -> None:
    """Turn the kernels on in each BatchNorm of the network that looks at a batch of this rank's images.

    Args:
        cfg: backbone_kernels, precision, channels_last, compile, network.
        backbone: in training mode; what is frozen rests, and what is synchronised is of another class.
        device: of the training.
    Raises:
        ValueError: backbone_kernels=True, and they cannot run here, or there is nothing for them.
    """
    norms = [part for part in backbone.modules() if type(part) is nn.BatchNorm2d and part.training]
    if cfg.backbone_kernels is True:
        _check(cfg, norms, device)
    is_on = cfg.backbone_kernels is True or (cfg.backbone_kernels == "auto" and _is_faster(cfg, device))
    for norm in norms:
        norm.kernels = is_on


def has_triton() -> bool:
    """Whether the package is installed; it is not where PyTorch is of the CPU alone."""
    return importlib.util.find_spec("triton") is not None


def _is_faster(cfg, device: torch.device) -> bool:
    if device.type != "cuda" or not cfg.channels_last or cfg.compile or not has_triton():
        return False
    return (torch.cuda.get_device_capability(device), cfg.precision) in MEASURED


def _check(cfg, norms: list[nn.Module], device: torch.device) -> None:
    allowed = "allowed are 'auto' and False"
    if not norms:
        raise ValueError(
            f"backbone_kernels=True would be ignored: network={cfg.network} has no BatchNorm2d that learns "
            f"from the images of one rank; {allowed}"
        )
    if not has_triton():
        raise ValueError(f"backbone_kernels=True needs the package triton, which is not installed; {allowed}")
    if device.type != "cuda":
        from triton import knobs

        if not knobs.runtime.interpret:
            raise ValueError(
                f"backbone_kernels=True needs a GPU (or, for tests, TRITON_INTERPRET=1 in the environment); "
                f"{allowed}"
            )
