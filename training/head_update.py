"""The update rule of `head_update="fused"`: the optimiser's step of class centres, a chunk at a time.

PartialFC calls it in the backward pass with the gradient of each chunk, so that no gradient of all centres
exists. Rates, decay and state are those of the centres in the optimiser, which itself finds no gradient of
them: a checkpoint is the same whether the update is fused or not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.row_optimizers import RowOptimizer


class HeadUpdate:
    """What PartialFC does to its per-class parameters once a step, see `PartialFC.update_rule`.

    Args:
        optimizer: has these parameters in its groups; its learning rate of the step counts.
        parameters: the head's `class_parameters()`; those without requires_grad are left alone.
        momentum_dtype: the number format in which the momentum (AdamW: the first moment) is kept between
            steps; it is computed in that of the centres. None: as the centres.

    Attributes:
        step_loss: `()`, the loss of the step on this rank, as far as it is known; where it is not finite,
            nothing moves on any rank.
        skipped: `()`, 1 where this step's update was skipped on all ranks, else 0; on the device.
    """

    def __init__(
        self,
        optimizer: RowOptimizer,
        parameters: Mapping[str, nn.Parameter],
        momentum_dtype: torch.dtype | None = None,
    ):
        self.optimizer, self.momentum_dtype = optimizer, momentum_dtype
        self.parameters = [parameter for parameter in parameters.values() if parameter.requires_grad]
        self.begin(torch.zeros((), device=self.parameters[0].device))

    def begin(self, step_loss: Tensor) -> None:
        """Before the first forward pass of a step; `step_loss` may grow in place until the backward pass."""
        self.step_loss, self.skipped = step_loss, torch.zeros_like(step_loss)

    def start(self, skipped: Tensor) -> None:
        """Before the first chunk of a step: whether all of it is to change nothing, equal on every rank."""
        self.skipped = skipped
        self.shared: dict[Tensor, dict[str, Tensor]] = {}
        for parameter in self.parameters:
            self.optimizer.start_state(parameter, self.momentum_dtype)
            self.shared[parameter] = self.optimizer.shared_state(parameter)

    def step_rows(self, parameter: nn.Parameter, rows: slice, gradient: Tensor) -> None:
        """Move these rows by their gradient `(rows, D)`, whose memory may be written to."""
        if all(group.get("fused") for group in self.optimizer.param_groups):
            self.optimizer.grad_scale, self.optimizer.found_inf = None, self.skipped
        elif self.skipped:  # on a CPU, where a look at the number waits for nobody
            return
        self.optimizer.step_rows(parameter, rows, gradient, self.shared[parameter])


def make_head_update(cfg, optimizer: RowOptimizer, head: nn.Module) -> HeadUpdate | None:
    """The update rule of a run; None where the optimiser itself moves the centres.

    Args:
        cfg: head_update, head_momentum.
    """
    if cfg.head_update != "fused":
        return None
    dtype = torch.bfloat16 if cfg.head_momentum == "bf16" else None
    return HeadUpdate(optimizer, head.class_parameters(), dtype)
