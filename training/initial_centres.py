"""What the class centres of a run start from, where that is not chance: means of features, or a file.

    init_head="random"        N(0, 0.01²), by (seed, class) alone: classifier/centres.py
    init_head="class_means"   the mean of the unit features of each class, of the teacher or of `pretrained`
    init_head=PATH            the folder of a run, whose newest checkpoint counts; an array (num_classes, D)
                              in a .npy file; arcface_torch's checkpoint_gpu_0.pt (its neighbours 1, 2 … are
                              read with it); AdaFace's .ckpt

A mean gets the length of its class's random centre: how fast a direction turns depends on that length.
"""

import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.weight_files import read_weight_file
from dataset import FaceDataset, to_input
from training import checkpoint
from utils.distributed import all_gather_rows, rank, row_counts, world_size
from utils.log_files import LOGGER_NAME
from utils.precision import autocast
from utils.progress import here
from utils.recordio import RecordError
from utils.settings import INIT_HEADS

NUM_READERS = 4  # threads that decode


def start_centres(cfg, head: nn.Module, network: Callable[[], nn.Module], dataset: FaceDataset) -> None:
    """Put into `head.weight` what `cfg.init_head` says; every rank calls this, before the first step.

    Args:
        head: PartialFC, whose centres are random.
        network: returns what "class_means" takes the features of, in evaluation mode, on the head's device.
    Raises:
        FileNotFoundError, ValueError: no centres in the file, or others than this run has.
        RecordError: an image cannot be used, and on_bad_record is "error".
    """
    if cfg.init_head == "random":
        return
    if cfg.init_head == "class_means":
        with here.part("class means"):
            means, num_images = class_means(network(), head, dataset, cfg)
        seen = num_images > 0
        # A class without images, or whose features cancel out, keeps its random centre.
        length = head.weight.detach().norm(dim=1, keepdim=True)
        found = torch.where(seen[:, None], F.normalize(means) * length, head.weight.detach())
    else:
        found = read_centres(Path(cfg.init_head), head).to(head.weight)
    if not found.isfinite().all():
        raise ValueError(f"init_head={cfg.init_head}: some centres are no finite numbers")
    with torch.no_grad():
        head.weight.copy_(found)
    logging.getLogger(LOGGER_NAME).info("the class centres start from %s", cfg.init_head)


@torch.no_grad()
def class_means(network: nn.Module, head: nn.Module, dataset: FaceDataset, cfg) -> tuple[Tensor, Tensor]:
    """Means of the unit features of this rank's classes `(num_local, D)`, and their numbers of images.

    Each rank passes a consecutive part of the images, unchanged, through the network; the features of a batch
    and their labels cross the network. The sums depend on the number of ranks by rounding alone.
    """
    sums, num_images = torch.zeros_like(head.weight), torch.zeros_like(head.weight[:, 0])
    device = head.weight.device
    start, end = (len(dataset) * r // world_size() for r in (rank(), rank() + 1))
    longest = -(-len(dataset) // world_size())  # every rank gathers as often as the one with most images
    logger = logging.getLogger(LOGGER_NAME)
    logger.info("class means: features of %d images, once", len(dataset))
    with ThreadPoolExecutor(NUM_READERS) as readers:
        for at in range(start, start + longest, cfg.batch_size):
            indices = range(at, min(at + cfg.batch_size, end))
            read = readers.map(lambda i: _read(dataset, i, skip_bad=cfg.on_bad_record == "skip"), indices)
            read = [pair for pair in read if pair is not None]
            labels = torch.tensor([label for _, label in read], dtype=torch.int64)
            features = head.weight.new_zeros(0, head.weight.shape[1])
            if read:
                rgb = torch.from_numpy(np.stack([image for image, _ in read])).permute(0, 3, 1, 2)
                batch = to_input(rgb, device, cfg.channels_last, network.input_order)
                with autocast(device, cfg.precision):
                    features = F.normalize(network(batch).float())
            counts = row_counts(len(read))
            labels = all_gather_rows(labels, counts).to(device) - head.class_start
            features = all_gather_rows(features, counts)
            own = (labels >= 0) & (labels < head.num_local)
            sums.index_add_(0, labels[own], features[own])
            num_images += torch.bincount(labels[own], minlength=head.num_local)
    return sums / num_images.clamp_min(1)[:, None], num_images


def _read(dataset: FaceDataset, index: int, skip_bad: bool) -> tuple[np.ndarray, int] | None:
    try:
        return dataset.read(index)
    except RecordError:
        if not skip_bad:
            raise
        return None


def read_centres(path: Path, head: nn.Module) -> Tensor:
    """This rank's rows `(num_local, D)` of the centres in a file or folder; for its layouts see above."""
    if path.is_dir():
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        _, sharded = checkpoint.load(folder, head.class_start, head.num_local, num_classes=head.num_classes)
        centres = sharded["weight"]
    else:
        centres = _all_centres(path)
        if len(centres) != head.num_classes:
            raise ValueError(
                f"init_head={path} holds {len(centres)} class centres, but this run has {head.num_classes} "
                "classes: other training data?"
            )
        centres = centres[head.class_start : head.class_start + head.num_local]
    if centres.shape[1:] != head.weight.shape[1:]:
        raise ValueError(
            f"init_head={path} holds centres of {tuple(centres.shape[1:])} numbers, not of "
            f"embedding_size={head.weight.shape[1]}"
        )
    return centres


def _all_centres(path: Path) -> Tensor:
    """`(num_classes, D)` of a file."""
    if path.suffix == ".npy":
        try:
            centres = np.load(path, allow_pickle=False)
            if not np.issubdtype(getattr(centres, "dtype", None), np.floating):
                raise TypeError("its numbers are no floating-point numbers")
            centres = torch.from_numpy(centres.astype(np.float32))
        except FileNotFoundError:
            raise FileNotFoundError(f"no file {str(path)!r}") from None
        except (ValueError, TypeError, EOFError, MemoryError) as error:
            raise ValueError(f"init_head={path} is no array of numbers ({error})") from None
        if centres.ndim != 2:
            raise ValueError(f"init_head={path} has the shape {tuple(centres.shape)}, not (num_classes, D)")
        return centres
    content = read_weight_file(path)
    found = _table(content.get("state_dict_softmax_fc"), "weight")
    if found is not None:
        return torch.cat([found, *_neighbours(path)])
    found = _table(content.get("state_dict"), "head.kernel")
    if found is not None:
        return found.T  # AdaFace keeps a column for each class
    raise ValueError(
        f"init_head={path} holds no class centres: allowed are the folder of a run, a .npy file, "
        f"checkpoint_gpu_0.pt of arcface_torch, a .ckpt of AdaFace, {' and '.join(map(repr, INIT_HEADS))}"
    )


def _neighbours(path: Path) -> list[Tensor]:
    """The centres of arcface_torch's other ranks: checkpoint_gpu_1.pt and so on, beside that of rank 0."""
    parts = re.fullmatch(r"(.*_)0(\.\w+)", path.name)
    if parts is None:
        raise ValueError(f"init_head={path}: name the file of rank 0, the others are read with it")
    found = []
    while (other := path.with_name(f"{parts[1]}{len(found) + 1}{parts[2]}")).is_file():
        table = _table(read_weight_file(other).get("state_dict_softmax_fc"), "weight")
        if table is None:
            raise ValueError(f"{other} holds no class centres")
        found.append(table)
    return found


def _table(state_dict, key: str) -> Tensor | None:
    """A matrix of floating-point numbers under this key, or None."""
    table = state_dict.get(key) if isinstance(state_dict, dict) else None
    is_table = isinstance(table, Tensor) and table.ndim == 2 and table.is_floating_point()
    return table.float() if is_table else None
