"""How many classes the classifier takes at a time, for who computes and for who estimates the memory."""

import torch

BLOCK_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}  # of a block (batch, chunk) of `stream`, in float32


def default_chunk_size(batch: int, device: torch.device) -> int:
    """Classes in a block with so many samples."""
    return max(BLOCK_BYTES.get(device.type, BLOCK_BYTES["cpu"]) // 4 // max(batch, 1), 64)
