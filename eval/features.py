"""Images -> features: the one place in evaluation where a network runs."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dataset import to_input
from utils.distributed import all_gather_rows, rank, world_size
from utils.errors import nearest
from utils.faces import ALIGNED
from utils.precision import PRECISIONS, autocast

NUM_READERS = min(8, os.cpu_count() or 1)  # threads that read ahead: OpenCV decodes without Python's lock


@contextmanager
def evaluating(model: nn.Module):
    """Evaluation mode inside; afterwards each module is as it was (a frozen BatchNorm stays frozen)."""
    was_training = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, training in was_training.items():
            module.training = training


def chosen_precision(precision: str, device: torch.device) -> str:
    """What "auto" means on a device: "bf16" on a GPU that has it, else "fp32"; others as they are."""
    if precision != "auto":
        return precision
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if fast else "fp32"


def check_settings(batch_size: int, precision: str) -> None:
    """Require what `extract` can do.

    Raises:
        ValueError: an unknown precision, a batch without images.
    """
    if precision not in (known := (*PRECISIONS, "auto")):
        raise ValueError(f"precision {precision!r}{nearest(precision, known)}; allowed: {', '.join(known)}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, allowed: 1 or more")


def read_ahead(images: Sequence, parts: Iterable[slice], pin: bool = False) -> Iterator[Tensor]:
    """`images[part]` for each part, in order, checked; the next ones are read by threads in the meantime.

    At most NUM_READERS + 1 parts are in memory.

    Args:
        pin: in pinned memory, which a GPU copies while it computes.
    """

    def read(part: slice) -> Tensor:
        faces = images[part]
        check_faces(faces)
        faces = torch.from_numpy(faces)
        return faces.pin_memory() if pin else faces

    waiting = deque()
    with ThreadPoolExecutor(NUM_READERS) as pool:
        for part in parts:
            waiting.append(pool.submit(read, part))
            if len(waiting) > NUM_READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def features_of_views(backbone: nn.Module, batch: Tensor, mirror: bool, at_once: bool) -> Tensor:
    """Features `(n, D)` float32; with `mirror` those of the mirror images are appended, `(n, 2D)`.

    Args:
        at_once: both views make one batch of 2n: half as many kernels for a GPU to start. A CPU starts them
            at once; there features stay what they were to the last bit.
    """
    views = [batch, torch.flip(batch, dims=[3])] if mirror else [batch]
    if at_once:
        features = backbone(torch.cat(views)).float().chunk(len(views))
    else:
        features = [backbone(view).float() for view in views]
    return torch.cat(features, dim=1)


@torch.no_grad()
def extract(
    backbone: nn.Module,
    images: Sequence,
    *,
    batch_size: int = 64,
    precision: str = "fp32",
    mirror: bool = True,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Raw features of the images and of their mirror images, on the device where the backbone is.

    Each rank of the group takes a consecutive part of the images; the features cross the network, and every
    rank returns all of them. Without a group this process does everything.

    Args:
        backbone: `(n, 3, 112, 112)` in [-1, 1] -> `(n, D)`; wants BGR where its `input_order` says so.
        images: `(N, 112, 112, 3)` uint8, RGB, the same on every rank: an array, or a sequence whose slices
            are such arrays (`eval.readers.faces`), of which only a few batches are ever in memory.
        batch_size: images a forward pass, on each rank.
        precision: "fp32", "bf16" or "fp16" (autocast), or "auto", see `chosen_precision`. In half precision
            a GPU gets the images in channels_last.
        mirror: also of the mirror images, which costs as much again.
        progress: what rank 0's progress bar is called, on a terminal; None: no bar.
    Returns:
        plain and flip, each `(N, D)` float32, not normalised; flip is None without `mirror`.
    Raises:
        ValueError: images of another shape or type, an unknown precision or colour order.
    """
    check_settings(batch_size, precision)
    if isinstance(backbone, DistributedDataParallel):
        backbone = backbone.module  # the wrapper talks to the other ranks, which may run fewer batches
    input_order = getattr(backbone, "input_order", "RGB")
    if input_order not in ("RGB", "BGR"):
        raise ValueError(f"the backbone's input_order is {input_order!r}, allowed: RGB, BGR")
    device = next((parameter.device for parameter in backbone.parameters()), torch.device("cpu"))
    precision, on_gpu = chosen_precision(precision, device), device.type == "cuda"
    channels_last = on_gpu and precision != "fp32"
    first, last = (len(images) * r // world_size() for r in (rank(), rank() + 1))
    # A rank without images runs one too, to learn the D that the gather needs; it keeps no feature of it.
    start, end = (first, last) if first < last else (0, 1)
    parts = [slice(at, min(at + batch_size, end)) for at in range(start, end, batch_size)]
    shown = progress is not None and rank() == 0
    batches = []
    with (
        evaluating(backbone),
        autocast(device, precision),
        tqdm(total=end - start, desc=progress, unit=" faces", disable=None if shown else True) as bar,
    ):
        for faces in read_ahead(images, parts, pin=on_gpu):
            batch = to_input(faces.permute(0, 3, 1, 2), device, channels_last, input_order)
            batches.append(features_of_views(backbone, batch, mirror, at_once=on_gpu))
            bar.update(len(faces))
    features = all_gather_rows(torch.cat(batches)[: last - first]).cpu().numpy()
    if not mirror:
        return features, None
    plain, flip = np.split(features, 2, axis=1)
    return np.ascontiguousarray(plain), np.ascontiguousarray(flip)


def check_faces(faces: np.ndarray) -> None:
    """Require `(n, 112, 112, 3)` uint8 and at least one face.

    Raises:
        ValueError: it is anything else.
    """
    is_array = isinstance(faces, np.ndarray)
    right = is_array and faces.ndim == 4 and faces.shape[1:] == (112, 112, 3) and faces.dtype == np.uint8
    if not right or len(faces) == 0:
        found = f"{faces.dtype} {faces.shape}" if is_array else f"a {type(faces).__name__}"
        raise ValueError(f"images are {found}, expected uint8 (N, 112, 112, 3), RGB, N > 0, each {ALIGNED}")
