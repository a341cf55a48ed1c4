"""BatchNorm whose running statistics stay as they are."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.buffers import saved_buffers, with_buffers


class FrozenBatchStatistics:
    """While entered, BatchNorm in `module` normalises as before but leaves its running statistics alone.

    It updates copies of them. (BatchNorm without statistics would be another computation for autograd, and
    gradient checkpointing compares the two.) A class, because checkpointing enters the same object again.
    """

    def __init__(self, module: nn.Module):
        self.norms = nn.ModuleList(part for part in module.modules() if isinstance(part, _BatchNorm))

    def __enter__(self) -> None:
        self.copies_in_use = with_buffers(self.norms, saved_buffers(self.norms))
        self.copies_in_use.__enter__()

    def __exit__(self, *error) -> None:
        self.copies_in_use.__exit__(*error)
