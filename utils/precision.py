"""The precisions that a setting may name."""

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network's forward pass runs: mixed precision, or nothing for "fp32"."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")
