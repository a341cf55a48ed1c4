"""BatchNorm whose running statistics stay as they are."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class FrozenBatchStatistics:
    """While entered, BatchNorm in `module` normalises as before but leaves its running statistics alone."""

    def __init__(self, module: nn.Module):
        self.norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]

    def __enter__(self) -> None:
        self.kept = [dict(norm.named_buffers(recurse=False)) for norm in self.norms]
        for norm, buffers in zip(self.norms, self.kept):
            for name, statistics in buffers.items():
                # It writes to a copy: with no statistics at all, autograd would see another computation.
                setattr(norm, name, statistics.clone())

    def __exit__(self, *_) -> None:
        for norm, buffers in zip(self.norms, self.kept):
            for name, statistics in buffers.items():
                setattr(norm, name, statistics)
