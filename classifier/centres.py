"""Where class centres start from: a function of (seed, class) alone, so of no number of ranks."""

import numpy as np
import torch
from torch import Tensor

INIT_STD = 0.01
INIT_BLOCK = 1024  # classes that share one random stream; part of what a seed means


def initial_centres(seed: int, start: int, count: int, embedding_size: int) -> Tensor:
    """Centres start … start + count − 1 `(count, D)` from N(0, INIT_STD²), by (seed, class) alone."""
    centres = torch.empty(count, embedding_size)
    for block in range(start // INIT_BLOCK, -(-(start + count) // INIT_BLOCK)):
        generator = np.random.default_rng((seed, block))
        random = generator.standard_normal((INIT_BLOCK, embedding_size), np.float32)
        first = block * INIT_BLOCK
        low, high = max(start, first), min(start + count, first + INIT_BLOCK)
        centres[low - start : high - start] = torch.from_numpy(random[low - first : high - first])
    return centres.mul_(INIT_STD)
