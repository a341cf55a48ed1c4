"""Whether a step runs in the GPU kernels of this folder, or in PyTorch."""

import importlib.util

import torch

from losses.base import MarginLoss

# (compute capability, precision) of the cards on which a row of docs/performance.md shows that the kernels
# are right and faster than PyTorch: kernels="auto" means on there. None was measured yet.
MEASURED: frozenset[tuple[tuple[int, int], str]] = frozenset()

FORMULAS = ("other_logits", "binary_logits", "row_statistics", "kernel_inputs")  # what a kernel stands for


def check_setting(kernels: bool | str, loss: MarginLoss, engine: str) -> None:
    """Raise ValueError where kernels=True asks for what there is not."""
    if kernels is not True:
        return
    if engine != "stream":
        raise ValueError(f"kernels=True would be ignored with engine={engine!r}: allowed is 'stream'")
    if not has_kernel(loss):
        raise ValueError(
            f"kernels=True: the others' logits of {type(loss).__name__} have no Triton function (see "
            "losses/kernel_logits.py); allowed are 'auto' and False"
        )
    if not has_triton():
        raise ValueError(
            "kernels=True needs the package triton, which is not installed; allowed are 'auto', False"
        )


def has_triton() -> bool:
    """Whether the package is installed; it is not where PyTorch is of the CPU alone."""
    return importlib.util.find_spec("triton") is not None


def has_kernel(loss: MarginLoss) -> bool:
    """Whether the kernels know the others' logits of this loss, and its row statistics."""
    linear = not (loss.moves_others or loss.has_row_statistics)
    if linear:
        return True
    is_complete = loss.kernel is not None and loss.has_row_statistics == bool(loss.kernel_statistics)
    return is_complete and all(_depth(loss, "kernel") <= _depth(loss, formula) for formula in FORMULAS)


def _depth(loss: MarginLoss, name: str) -> int:
    """How far up its classes a loss gets this from; 0: its own.

    A subclass with another formula than the class that has the kernel is another loss.
    """
    classes = type(loss).__mro__
    return next((i for i, one in enumerate(classes) if name in vars(one)), len(classes))


def use_kernels(kernels: bool | str, loss: MarginLoss, raw: torch.Tensor, precision: str) -> bool:
    """Whether this step runs in the kernels.

    Args:
        kernels: True, False or "auto": on where a measurement says so.
        raw: embeddings, on the device of the step, in its full precision.
    Raises:
        ValueError: kernels=True, and they cannot run here.
    """
    if kernels == "auto":
        if raw.device.type != "cuda" or raw.dtype != torch.float32 or not has_kernel(loss):
            return False
        return (torch.cuda.get_device_capability(raw.device), precision) in MEASURED and has_triton()
    if kernels and raw.dtype != torch.float32:
        raise ValueError(f"kernels=True: class centres of {raw.dtype}; allowed is float32")
    if kernels and raw.device.type != "cuda":
        check_interpreter(precision)
    return bool(kernels)


def check_interpreter(precision: str) -> None:
    """Raise ValueError unless Triton's interpreter can stand in for a GPU."""
    from triton import knobs

    if not knobs.runtime.interpret:
        raise ValueError(
            "kernels=True needs a GPU (or, for tests, TRITON_INTERPRET=1 in the environment); allowed are "
            "'auto' and False"
        )
    if precision == "bf16":
        raise ValueError(
            "kernels=True: Triton's interpreter multiplies bfloat16 wrongly; allowed is 'fp32' or 'fp16'"
        )
