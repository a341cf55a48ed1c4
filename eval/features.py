"""Images -> features: the one place in evaluation where a network runs."""

from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dataset import to_input
from utils.command_line import nearest
from utils.distributed import all_gather_rows, rank, world_size
from utils.precision import PRECISIONS, autocast


@contextmanager
def evaluating(model: nn.Module):
    """Evaluation mode inside; afterwards each module is as it was (a frozen BatchNorm stays frozen)."""
    was_training = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, training in was_training.items():
            module.training = training


@torch.no_grad()
def extract(
    backbone: nn.Module,
    images: np.ndarray,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    precision: str = "fp32",
) -> tuple[np.ndarray, np.ndarray]:
    """Raw features of the images and of their mirror images.

    Each rank of the group takes a consecutive part of the images; the features cross the network, and every
    rank returns all of them. Without a group this process does everything.

    Args:
        backbone: `(n, 3, 112, 112)` in [-1, 1] -> `(n, D)`; wants BGR where its `input_order` says so.
        images: `(N, 112, 112, 3)` uint8, RGB, the same on every rank.
        batch_size: images a forward pass, on each rank.
        device: where to run; None: where the backbone is.
        precision: "fp32", "bf16" or "fp16" (autocast).
    Returns:
        plain and flip, each `(N, D)` float32, not normalised.
    Raises:
        ValueError: images of another shape or type, an unknown precision or colour order.
    """
    if images.ndim != 4 or images.shape[1:] != (112, 112, 3) or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(
            f"images are {images.dtype} {images.shape}, expected uint8 (N, 112, 112, 3), N > 0: "
            "faces aligned by five landmarks to insightface's 112x112 template"
        )
    if precision not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise ValueError(f"precision {precision!r}{nearest(precision, PRECISIONS)}; allowed: {allowed}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, allowed: 1 or more")
    if isinstance(backbone, DistributedDataParallel):
        backbone = backbone.module  # the wrapper talks to the other ranks, which may run fewer batches
    input_order = getattr(backbone, "input_order", "RGB")
    if input_order not in ("RGB", "BGR"):
        raise ValueError(f"the backbone's input_order is {input_order!r}, allowed: RGB, BGR")
    if device is None:
        device = next((parameter.device for parameter in backbone.parameters()), "cpu")
    device = torch.device(device)

    first, last = (len(images) * r // world_size() for r in (rank(), rank() + 1))
    # A rank without images runs one and keeps nothing of it: it has to learn D to join the gather.
    share = images[first:last] if first < last else images[:1]
    batches = []
    with evaluating(backbone), autocast(device, precision):
        for start in range(0, len(share), batch_size):
            rgb = torch.from_numpy(share[start : start + batch_size]).permute(0, 3, 1, 2)
            batch = to_input(rgb.flip(1) if input_order == "BGR" else rgb, device)
            views = (batch, torch.flip(batch, dims=[3]))
            batches.append(torch.cat([backbone(view).float() for view in views], dim=1))  # (n, 2D)
    features = all_gather_rows(torch.cat(batches)[: last - first]).cpu().numpy()
    plain, flip = np.split(features, 2, axis=1)
    return np.ascontiguousarray(plain), np.ascontiguousarray(flip)
