"""Where the numbers and pictures of a run go beside metrics.jsonl: TensorBoard, Weights & Biases.

A mirror has `add_scalars(step, scalars, flush=)`, `add_image(step, name, image)` and `close()`. What it
cannot write costs no run.
"""

from pathlib import Path

from reports.tensorboard_log import TensorBoardLog
from reports.wandb_log import WandbLog


def open_mirrors(cfg, folder: Path, first_step: int) -> list[TensorBoardLog | WandbLog]:
    """Those that the config asks for; for rank 0.

    Args:
        cfg: a loaded config.
        folder: of the run.
        first_step: steps done before.
    Raises:
        ValueError: a package is missing, or Weights & Biases does not let this run in.
    """
    mirrors = []
    if cfg.tensorboard:
        mirrors.append(TensorBoardLog(folder / "tensorboard", first_step))
    if cfg.using_wandb:
        mirrors.append(WandbLog(folder, cfg, first_step))
    return mirrors
