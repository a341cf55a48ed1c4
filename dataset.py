"""Training data as a config names them, and the loader.

A dataset has `.num_classes`, `.root` (the folder, None for random images), a length, `[i]` -> image
`(3, 112, 112)` uint8 RGB tensor and int label, `read(i)` -> the same image as `(112, 112, 3)` array,
`read_batch`, which does that for many at once, and `name_of(i)`, which says where it comes from.
loading/readers/ has a file for each kind; docs/data.md describes the formats.
"""

from pathlib import Path

import torch
from torch import Tensor

from loading.augment import Augmentation
from loading.global_batch import choose_global_batch
from loading.loader import DistributedSampler, FaceLoader
from loading.readers.base import FaceDataset
from loading.readers.choice import open_data
from loading.readers.folders import FolderDataset
from loading.readers.merged import MergedDataset
from loading.readers.records import RecordDataset
from loading.readers.synthetic import SyntheticDataset
from loading.record_layout import gaps

__all__ = [
    "FaceDataset", "FolderDataset", "MergedDataset", "RecordDataset", "SyntheticDataset",
    "get_dataloader", "get_dataset", "to_input",
]  # fmt: skip


def get_dataset(cfg) -> FaceDataset:
    """The data that `cfg.rec` names: a folder, a list of folders, or "synthetic".

    A larger `cfg.num_classes` than the data's is kept: classes without images.

    Raises:
        FileNotFoundError, RecordError: see the datasets.
        ValueError: the data has more classes than `cfg.num_classes`, only one, or not `cfg.num_image` images.
    """
    if cfg.rec == "synthetic":
        if not cfg.num_classes or not cfg.num_image:
            raise ValueError("rec='synthetic' needs num_classes and num_image: there is no data to count")
        return SyntheticDataset(cfg.num_classes, cfg.num_image)
    roots = [cfg.rec] if isinstance(cfg.rec, str | Path) else list(cfg.rec)
    if not roots:
        raise ValueError("rec is an empty list: allowed is a folder, a list of folders, or 'synthetic'")
    alone = len(roots) == 1
    parts = [open_data(Path(root), cfg.num_classes if alone else None) for root in roots]
    dataset = parts[0] if alone else MergedDataset(parts)
    if dataset.num_classes < 2:
        raise ValueError(
            f"{cfg.rec} has one identity only: there is nobody to tell it from, the loss would be 0"
        )
    if cfg.num_classes is not None:
        if dataset.num_classes > cfg.num_classes:
            raise ValueError(
                f"{cfg.rec} has {dataset.num_classes} classes, more than num_classes={cfg.num_classes}"
            )
        if not alone or isinstance(dataset, FolderDataset):  # else it has warned itself
            dataset.warnings = dataset.warnings + gaps(cfg.rec, dataset.num_classes, cfg.num_classes)
        dataset.num_classes = cfg.num_classes
    if cfg.num_image is not None and len(dataset) != cfg.num_image:
        raise ValueError(f"{cfg.rec} has {len(dataset)} images, but num_image={cfg.num_image}")
    return dataset


def get_dataloader(
    cfg, dataset: FaceDataset, *, rank: int, world_size: int, global_batch: int | None = None
) -> FaceLoader:
    """The loader of this rank, its images augmented by the `*_prob` settings.

    Args:
        global_batch: images of a step on all ranks, which come in `cfg.gradient_acc` batches; None: what the
            settings say.

    Raises:
        ValueError: fewer images than a batch of all ranks needs.
    """
    batch_size = (global_batch or choose_global_batch(cfg, world_size)) // cfg.gradient_acc
    sampler = DistributedSampler(len(dataset), batch_size, rank=rank, world_size=world_size, seed=cfg.seed)
    augmentation = Augmentation(cfg.crop_prob, cfg.low_res_prob, cfg.photometric_prob, cfg.flip_prob)
    skip_bad = cfg.on_bad_record == "skip"
    return FaceLoader(dataset, sampler, augmentation, num_workers=cfg.num_workers, skip_bad=skip_bad)


def to_input(
    images: Tensor, device: torch.device, channels_last: bool = False, input_order: str = "RGB"
) -> Tensor:
    """uint8 RGB images `(b, 3, 112, 112)` as float32 in [-1, 1], computed on the device.

    Args:
        input_order: "BGR": the channels are turned around for a network that was trained so.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = images.to(device, non_blocking=True)  # as bytes, a quarter of what float32 would be
    images = images.flip(1) if input_order == "BGR" else images
    return images.to(torch.float32, memory_format=layout).sub_(127.5).div_(127.5)
