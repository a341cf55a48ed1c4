"""What a user should know before the first step keeps silent for minutes."""

from collections.abc import Mapping

import torch

from utils.precision import fast_precision

LARGE = 20_000_000  # parameters; mbf has two millions, r18 twenty-four


def hints(cfg: Mapping, device: torch.device, num_parameters: int) -> list[str]:
    """Lines about settings that make a run on a CPU slow; none on a GPU.

    Args:
        num_parameters: of the backbone.
    """
    if device.type != "cpu":
        return []
    found = []
    if cfg["precision"] not in ("fp32", fast_precision()):
        found.append(
            f"precision={cfg['precision']} on a CPU: this processor has no instructions for it; add "
            "precision=fp32, which is a hundred times faster here"
        )
    if num_parameters > LARGE:
        found.append(
            f"network={cfg['network']} on a CPU: it has {num_parameters / 1e6:.0f} million parameters, and a "
            f"step of {cfg['batch_size']} images takes minutes; to try things out: network=mbf batch_size=32"
        )
    return found
