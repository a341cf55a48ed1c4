"""Training data: RecordIO files, image folders, random images; and the loader.

A dataset has `.num_classes`, `.root` (the folder, None for random images), a length, `[i]` -> image
`(3, 112, 112)` uint8 RGB tensor and int label, `read(i)` -> the same image as `(112, 112, 3)` array,
`read_batch`, which does that for many at once, and `name_of(i)`, which says where it comes from.
docs/data.md describes the formats.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from loading.augment import Augmentation
from loading.global_batch import choose_global_batch
from loading.image_files import IMAGE_SUFFIXES, read_identity_folders
from loading.loader import DistributedSampler, FaceLoader
from loading.record_layout import (
    are_labels,
    check_labels,
    content,
    count_classes,
    find_record,
    gaps,
    image_keys,
    read_property,
)
from utils.faces import ALIGNED, SIZE, decode_rgb
from utils.recordio import IndexedRecordReader, RecordError


def decode(encoded: bytes, name: str) -> np.ndarray:
    """An encoded image as `(112, 112, 3)` uint8 RGB; `name` is what an error calls it.

    Raises:
        RecordError: OpenCV cannot decode it, or it has another size.
    """
    try:
        image = decode_rgb(encoded)
    except ValueError as error:
        raise RecordError(f"{name}: {error}") from None
    if image.shape[:2] != (SIZE, SIZE):
        raise RecordError(
            f"{name}: the image has {image.shape[1]}×{image.shape[0]} pixels, expected {ALIGNED}"
        )
    return image


def _decodes(encoded: bytes | None, out: np.ndarray) -> bool:
    """Whether it is an image of the size of `out`; it stands there then."""
    try:
        return encoded is not None and decode_rgb(encoded, out).shape == out.shape
    except ValueError:
        return False


class FaceDataset(Dataset):
    """What all datasets share. A subclass sets `root`, `num_classes`, has `read`, `name_of`, `__len__`.

    `warnings` has a line for each thing that a user should know of the data.
    """

    root: Path | None
    num_classes: int
    warnings: list[str] = []

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Image `(112, 112, 3)` uint8 RGB and label of one sample; RecordError where it cannot be used."""
        raise NotImplementedError

    def read_batch(
        self, indices: np.ndarray, images: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, dict[int, RecordError]]:
        """What `read` gives for many samples at once: the loader's way, where it is the faster one.

        Args:
            indices: `(n,)`, which samples.
            images: n arrays `(112, 112, 3)` uint8, which the images are written to.
        Returns:
            Labels `(n,)` int64, and why a sample cannot be used, by its place among the indices.
        """
        labels, errors = np.zeros(len(indices), np.int64), {}
        for place, index in enumerate(indices.tolist()):
            try:
                images[place][:], labels[place] = self.read(index)
            except RecordError as error:
                errors[place] = error
        return labels, errors

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Arrays by name that tell it from other data of its size, if there can be any; reads no image."""
        return {}

    def name_of(self, index: int) -> str:
        """Where one sample comes from, for messages: "train.rec: record 41", with the whole path."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} images")
        image, label = self.read(index % len(self))
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), label


class RecordDataset(FaceDataset):
    """`train.rec` and `train.idx` in a folder, with or without insightface's header; `property` is optional.

    `root` may also be a .rec file, or a folder that holds one of another name; see `find_record`.

    Images come in the order of the `.idx`. The class range is what `property` declares, else `num_classes`,
    else the largest label plus one.

    Raises:
        FileNotFoundError: no such folder or file.
        RecordError: the files do not fit each other, or a label lies outside the class range.
    """

    def __init__(self, root: str | Path, num_classes: int | None = None):
        record = find_record(Path(root)) or Path(root, "train.rec")
        self.root = record.parent
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder")
        self.reader = IndexedRecordReader(record.with_suffix(".idx"), record)
        self.keys, num_identities = image_keys(self.reader)
        declared, source = read_property(self.root / "property"), "property"
        if declared is None:
            declared, source = num_classes, "num_classes"
        self.num_classes, self.warnings = count_classes(
            self.reader, self.keys, num_identities, declared, source
        )

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        key = self.keys[index : index + 1]
        label, encoded = self.reader.read(key[0])
        check_labels(self.reader, key, label[:1], self.num_classes, "its number of classes")
        return decode(encoded, self.name_of(index)), int(label[0])

    def read_batch(
        self, indices: np.ndarray, images: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, dict[int, RecordError]]:
        """Looks up and checks all records and labels at once; what is not plain goes through `read`."""
        labels, payloads = self.reader.read_plain(self.keys[indices])
        allowed = are_labels(labels, self.num_classes)
        read = zip(allowed.tolist(), payloads, images)
        others = [place for place, found in enumerate(read) if not (found[0] and _decodes(*found[1:]))]
        labels = np.where(allowed, labels, 0).astype(np.int64)
        labels[others], errors = super().read_batch(indices[others], [images[place] for place in others])
        return labels, {others[i]: error for i, error in errors.items()}

    def name_of(self, index: int) -> str:
        return f"{self.reader.rec_path}: record {self.keys[index]}"

    def labels(self) -> np.ndarray:
        """Every image's label, `(len(self),)` int64; touches one page of the file per image."""
        return self.reader.first_labels(self.keys).astype(np.int64)

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Labels and places of the records."""
        return content(self.reader, self.keys)


class FolderDataset(FaceDataset):
    """One sub-folder of images per identity. Labels number the names in sorted order: `.identities`.

    Which files count, and what is left out: see `loading.image_files`. `.left_out` says it in words.

    Raises:
        FileNotFoundError: no such folder, or no image one level below it.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder")
        self.identities, paths, labels, self.left_out = read_identity_folders(self.root)
        if not paths:
            rest = f" (it has {', '.join(self.left_out)})" if self.left_out else ""
            raise FileNotFoundError(
                f"{self.root}: neither train.rec nor images; expected train.rec and train.idx, "
                f"or {self.root.name}/<identity>/*{', *'.join(IMAGE_SUFFIXES)}{rest}"
            )
        self.warnings = [f"{self.root}: left out: {', '.join(self.left_out)}"] if self.left_out else []
        # Arrays, not lists: forked workers share the memory of an array. Reading a list changes the reference
        # counts of its items, and so each worker would end up with a copy.
        self._paths, self._labels = np.array(paths), np.array(labels)
        self.num_classes = len(self.identities)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self.root / os.fsdecode(self._paths[index])

    def labels(self) -> np.ndarray:
        """Every image's label, `(len(self),)` int64."""
        return self._labels

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Labels, and names of the files."""
        return {"labels": (self._labels,), "images": (self._paths,)}

    def read(self, index: int) -> tuple[np.ndarray, int]:
        path = self.path(index)
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise RecordError(f"{path}: {error.strerror}") from None
        return decode(encoded, str(path)), int(self._labels[index])

    def name_of(self, index: int) -> str:
        return str(self.path(index))


class SyntheticDataset(FaceDataset):
    """64 random images, again and again, to measure speed without data; image i has label i % num_classes."""

    root = None

    def __init__(self, num_classes: int, num_images: int):
        self.num_classes, self._num_images = num_classes, num_images
        self._pool = np.random.default_rng(0).integers(0, 256, (64, SIZE, SIZE, 3), np.uint8)

    def __len__(self) -> int:
        return self._num_images

    def read(self, index: int) -> tuple[np.ndarray, int]:
        return self._pool[index % len(self._pool)], index % self.num_classes

    def name_of(self, index: int) -> str:
        return f"random image {index}"


class MergedDataset(FaceDataset):
    """Several datasets one after another; the labels of each begin where those of the one before end."""

    def __init__(self, datasets: Sequence[FaceDataset]):
        self.datasets, self.root = datasets, datasets[0].root
        self._starts = list(accumulate((len(dataset) for dataset in datasets), initial=0))
        self._first_labels = list(accumulate((dataset.num_classes for dataset in datasets), initial=0))
        self.num_classes = self._first_labels[-1]
        self.warnings = [text for dataset in datasets for text in dataset.warnings]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> tuple[np.ndarray, int]:
        part, index = self._locate(index)
        image, label = self.datasets[part].read(index)
        return image, label + self._first_labels[part]

    def read_batch(
        self, indices: np.ndarray, images: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, dict[int, RecordError]]:
        """Each part reads what is its own."""
        labels, errors = np.zeros(len(indices), np.int64), {}
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        for part in np.unique(parts).tolist():
            places = np.flatnonzero(parts == part).tolist()
            own = indices[places] - self._starts[part], [images[place] for place in places]
            found, of_part = self.datasets[part].read_batch(*own)
            labels[places] = found + self._first_labels[part]
            errors |= {places[i]: error for i, error in of_part.items()}
        return labels, errors

    def content(self) -> dict[str, tuple[np.ndarray, ...]]:
        """That of each part, and where the parts begin."""
        parts = {"parts": (np.array(self._starts), np.array(self._first_labels))}
        for number, dataset in enumerate(self.datasets):
            parts |= {f"{name} of folder {number}": arrays for name, arrays in dataset.content().items()}
        return parts

    def name_of(self, index: int) -> str:
        part, index = self._locate(index)
        return self.datasets[part].name_of(index)

    def _locate(self, index: int) -> tuple[int, int]:
        """Which dataset, and the index there."""
        part = bisect_right(self._starts, index) - 1
        return part, index - self._starts[part]


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
    parts = [_open_folder(Path(root), cfg.num_classes if alone else None) for root in roots]
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


def _open_folder(root: Path, num_classes: int | None) -> FaceDataset:
    return RecordDataset(root, num_classes) if find_record(root) else FolderDataset(root)


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
