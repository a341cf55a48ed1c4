"""The global batch: the images of one optimiser step on all ranks together, and which of them a rank takes.

A step is cut into `gradient_acc` micro-batches, a micro-batch into one part for each rank. The parts need not
be equal: the first ranks may take one image more. So a run keeps its global batch on any number of ranks, and
with it the order of the images, the steps of an epoch, the learning rate and the warm-up.
"""

import logging
from collections.abc import Mapping
from types import MappingProxyType

from utils.logging import LOGGER_NAME


def part_of_rank(total: int, rank: int, world_size: int) -> range:
    """Which of `total` images a rank takes: consecutive ones, the first total % world_size ranks one more."""
    each, left = divmod(total, world_size)
    start = each * rank + min(rank, left)
    return range(start, start + each + (rank < left))


def choose_global_batch(cfg, world_size: int, saved: Mapping[str, int] = MappingProxyType({})) -> int:
    """Images in one optimiser step: cfg.global_batch, or else batch_size x ranks x gradient_acc.

    A run that goes on with the batch_size and gradient_acc of its checkpoint, but on another number of ranks,
    keeps the global batch of the checkpoint and says so in one line.

    Args:
        cfg: a loaded config.
        saved: "global_batch", "batch_size" and "gradient_acc" of the checkpoint that the run goes on from
            (the last two are not in checkpoints of earlier versions); empty where there is none.
    Raises:
        ValueError: the checkpoint has another global batch, or there are more ranks than images.
    """
    of_settings = cfg.batch_size * world_size * cfg.gradient_acc
    global_batch = cfg.global_batch or of_settings
    before = saved.get("global_batch", global_batch)
    is_kept = cfg.global_batch is None and all(
        saved.get(name) == cfg[name] for name in ("batch_size", "gradient_acc")
    )
    if before != global_batch and not is_kept:
        made_of = f" ({cfg.batch_size} × {world_size} rank(s) × {cfg.gradient_acc})"
        raise ValueError(
            f"the checkpoint is of a run with global_batch {before}, this one has {global_batch}"
            f"{'' if cfg.global_batch else made_of}: global_batch={before} goes on with it"
        )
    fewest, most = (
        len(part_of_rank(before // cfg.gradient_acc, rank, world_size)) for rank in (world_size - 1, 0)
    )
    if fewest == 0:
        raise ValueError(
            f"global_batch={before} and gradient_acc={cfg.gradient_acc} leave some of {world_size} ranks "
            "without an image: start fewer ranks"
        )
    if before != global_batch:
        of_each = str(most) if fewest == most else f"{fewest} to {most}"
        logging.getLogger(LOGGER_NAME).info(
            f"{world_size} rank(s) of batch_size={cfg.batch_size} make a global batch of {global_batch}; "
            f"it stays the checkpoint's {before}, {of_each} images a rank and micro-batch "
            f"(if memory is short: global_batch={before} and a larger gradient_acc)"
        )
    return before
