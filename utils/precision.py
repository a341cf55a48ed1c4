"""The precisions that a setting may name."""

from pathlib import Path

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # bfloat16 instructions, by Linux's names


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network's forward pass runs: mixed precision, or nothing for "fp32"."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


def fast_precision() -> str:
    """What precision="auto" means on this machine: "bf16" where it has instructions for it, else "fp32".

    Elsewhere bfloat16 is emulated: on a processor that knows AVX2 alone a product takes 100 times as long.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if CPU_FLAGS & cpu_flags() else "fp32"


def channels_last_is_faster(network: str, precision: str) -> bool:
    """What channels_last="auto" means on this machine; docs/performance.md has the measurements.

    Vision transformers have one convolution, and on a CPU were slower with it.
    """
    if network.startswith("vit_"):
        return False
    return precision != "fp32" if torch.cuda.is_available() else "avx512f" in cpu_flags()


def cpu_flags() -> set[str]:
    """The words of /proc/cpuinfo, the processor's features among them; none where it is not Linux."""
    try:
        return set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()
