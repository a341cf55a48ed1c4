"""What makes a run the run that it is: its settings, its data and its code.

Before the first step the ranks compare it with one another; a checkpoint holds it, so that a resumed run can
be compared with the one before. configs/base.py says what may differ (MAY_DIFFER_BETWEEN_RANKS) and what may
change (MAY_CHANGE_ON_RESUME, SAME_RESULT_ON_RESUME).
"""

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from configs.base import MAY_CHANGE_ON_RESUME, MAY_DIFFER_BETWEEN_RANKS, SAME_RESULT_ON_RESUME
from ranks.agreement import compare_ranks, differences, tell
from training.lr_scheduler import Schedule
from utils.distributed import world_size
from utils.frozen import to_builtin
from utils.logging import LOGGER_NAME
from utils.run_info import code_version
from utils.settings import DEFAULTS
from utils.tensor_files import file_checksum

CHANGEABLE = " ".join(MAY_CHANGE_ON_RESUME.values()).split()
NOT_KEPT = {"name", *" ".join(SAME_RESULT_ON_RESUME.values()).split()}
LOCAL = {"name", *MAY_DIFFER_BETWEEN_RANKS}


def compare_settings(cfg: Mapping) -> None:
    """Raise on every rank where one has other settings or other code than rank 0."""
    settings = {key: value for key, value in cfg.items() if key not in LOCAL}
    remedy = "start every rank with the same command, code and packages"
    compare_ranks(settings | code_version(), remedy)


def content_of(dataset) -> dict[str, Any]:
    """Numbers of classes and images, and hashes of labels and of what tells images apart without reading."""
    counts = {"num_classes": dataset.num_classes, "num_image": len(dataset)}
    return counts | {name: hash_of(*parts) for name, parts in dataset.content().items()}


def content_of_files(cfg: Mapping) -> dict[str, Any]:
    """What tells the files of weights that a run starts from: their paths may change."""
    return {
        f"content of {name}": _content_of_file(cfg[name]) for name in ("pretrained", "teacher", "init_head")
    }


def _content_of_file(value: str | None) -> str | None:
    if value is None or not os.path.exists(value):
        return value  # a word; a file that is missing is told where it is read
    path = Path(value)
    if path.is_dir():  # of checkpoints, each with a list of the checksums in it
        files = sorted(path.rglob("step_*/manifest.json"))
        return hash_of(*(np.frombuffer(file.read_bytes(), np.uint8) for file in files))
    return " ".join(f"crc32 {file_checksum(file):08x}" for file in files_of_ranks(path))


def files_of_ranks(path: Path) -> list[Path]:
    """The file, and where it is arcface_torch's of rank 0 (NAME_0.pt) those of the other ranks beside it."""
    parts = re.fullmatch(r"(checkpoint_gpu_)0(\.\w+)", path.name)
    files = [path]
    while parts and (other := path.with_name(f"{parts[1]}{len(files)}{parts[2]}")).is_file():
        files.append(other)
    return files


def hash_of(*arrays: np.ndarray) -> str:
    """A short hash of the arrays' bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return f"sha256 {digest.hexdigest()[:12]}"


class RunIdentity:
    """What a checkpoint keeps of its run, and the comparison of a run with the one that it goes on from.

    Attributes:
        fixed: by name, what has to be the same in every run that goes on from its checkpoint.
        changeable: settings and code that may change the result; a change is told.
    """

    def __init__(self, cfg: Mapping, dataset, schedule: Schedule, global_batch: int):
        settings = to_builtin(cfg)
        self.schedule = schedule
        self.fixed = {key: settings[key] for key in settings if key not in {*CHANGEABLE, *NOT_KEPT}}
        self.fixed |= {"global_batch": global_batch, **content_of(dataset), **content_of_files(cfg)}
        self.changeable = {key: settings[key] for key in CHANGEABLE} | code_version()

    def compare_ranks(self, validation: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Raise on every rank where one has other data than rank 0.

        Args:
            validation: name -> images `(2P, ...)` and whether they are the same person `(P,)`. The images
                are compared by a sample.
        """
        sets = {
            f"verification set {name}": {"pairs": len(same), "content": hash_of(same, images[::97])}
            for name, (images, same) in validation.items()
        }
        compare_ranks(self.fixed | sets, "every rank has to see the same data")

    def facts(self, first_step: int, backbone: nn.Module, device: torch.device) -> dict[str, Any]:
        """What follows from settings, data and ranks, to be told at the start and kept in run.json."""
        names = ("num_classes", "num_image", "global_batch")
        facts = {name: self.fixed[name] for name in names}
        facts |= dict(world_size=world_size(), device=str(device), lr=self.schedule.base_lr)
        facts |= dict(steps_per_epoch=self.schedule.steps_per_epoch, num_steps=self.schedule.total_steps)
        return facts | dict(first_step=first_step, parameters=sum(p.numel() for p in backbone.parameters()))

    def state_dict(self, lr: float) -> dict[str, Any]:
        """What a checkpoint keeps. `lr`: of its last step."""
        last = {"total_steps": self.schedule.total_steps, "lr": lr}
        return {"fixed": self.fixed, "changeable": self.changeable, "last": last}

    def compare_with(self, saved: Mapping[str, Any], folder: Path, step: int) -> None:
        """Compare with what the checkpoint of `step` has kept, and log what has changed.

        Args:
            saved: of `state_dict`; before checkpoints knew all settings only "fixed", with three of them.
        Raises:
            ValueError: something changed that may not.
        """
        logger = logging.getLogger(LOGGER_NAME)
        before, now = dict(saved.get("fixed", {})), self.fixed
        if "changeable" in saved:  # settings that came later had the value that is now their default
            before = {key: DEFAULTS[key] for key in now if key in DEFAULTS} | before
        else:
            logger.info("the checkpoint is an older one: whether data and settings are the same is not known")
        both = [key for key in now if key in before]
        if found := differences({k: before[k] for k in both}, {k: now[k] for k in both}):
            raise ValueError(
                f"the checkpoint in {folder} is of a run with {tell(found, 'this one has')}: step {step} "
                "would not be where it stopped; docs/reliability.md lists what may change"
            )
        then = {key: DEFAULTS.get(key) for key in self.changeable} | saved.get("changeable", self.changeable)
        if changes := differences(then, self.changeable):
            text = ", ".join(f"{name} {old} -> {new}" for name, old, new in changes)
            logger.info(f"changed since the checkpoint: {text}")
        total_steps, last = self.schedule.total_steps, saved.get("last", {})
        if last.get("total_steps", total_steps) != total_steps:
            logger.info(
                f"the run has {total_steps} steps instead of {last['total_steps']}: the learning rate goes "
                f"on as in such a run, with {self.schedule(step):.3g} in step {step + 1} after "
                f"{last['lr']:.3g} in step {step}"
            )
