"""The update of a rank's classes at the end of the backward pass, when all gradients but theirs are known."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from classifier.step import Step
from utils.distributed import SumOverShards, all_max
from utils.errors import require


def check_fused(engine: str, sample_rate: float, kernels: bool | str) -> None:
    """Raise ValueError where head_update="fused" does not go with another argument of PartialFC."""
    fused = "with head_update='fused'"
    require(engine == "stream", "engine", engine, f"'stream' {fused}")
    require(sample_rate == 1, "sample_rate", sample_rate, f"1 {fused}")
    require(kernels is not True, "kernels", kernels, f"'auto' or False {fused}")


class ClassUpdate:
    """The update of one step: what it needs of the forward and the backward pass, and the writing pass.

    Args:
        rule: see `PartialFC.update_rule`.
        step: of which no tensor of this rank's classes gets a gradient.
        weight: `(n, D)`, the centres.
        tables: other per-class parameters that the rule moves.

    Attributes:
        loss: of the head, to be set after the forward pass.
        centre_gradients: a `fused.CentreGradients`, which the engine's backward pass leaves here.
    """

    def __init__(self, rule, step: Step, weight: nn.Parameter, tables: list[nn.Parameter]):
        self.rule, self.step, self.weight, self.tables = rule, step, weight, tables
        self.loss: Tensor | None = None
        self.centre_gradients = None
        self.is_over = False

    def enter(self, raw: Tensor) -> Tensor:
        """Put the update behind all else in the backward pass; returns the `(B, D)` to be used as raw now."""
        rows = [table.detach()[self.step.shard.columns].requires_grad_() for table in self.tables]
        raw = raw if raw.requires_grad else raw.detach().requires_grad_()
        raw, *rows = UpdateLast.apply(self, raw, *rows)
        self.rows = dict(zip(self.tables, rows))  # (k, D) each
        return raw

    def own_rows(self, table: nn.Parameter) -> Tensor:
        """As `Shard.own_rows`; the gradient is that of the rows, and known before the update."""
        if table in self.rows:
            return SumOverShards.apply(self.step.shard.to_batch(self.rows[table]))
        return self.step.shard.own_rows(table)

    @torch.no_grad()
    def run(self, grad_raw: Tensor, grad_rows: list[Tensor]) -> None:
        """Move this rank's classes, unless something is not finite on any rank."""
        if self.is_over:
            raise ValueError("head_update='fused': the centres have moved, a graph has one backward pass")
        self.is_over = True
        seen = [grad_raw, *grad_rows, *self.centre_gradients.small()]
        total = sum(part.norm() for part in seen) + self.loss + self.rule.step_loss
        self.rule.start(all_max((~total.isfinite()).float()))  # 1 on all ranks or 0 on all
        for rows, gradient in self.centre_gradients.chunks(self.weight.detach()):
            self.rule.step_rows(self.weight, rows, gradient)
        for table, gradient in zip(self.tables, grad_rows):
            for rows in slices(len(table), self.step.chunk_size):
                of_rows = torch.zeros_like(table[rows])
                add_rows(of_rows, self.step.shard.columns - rows.start, gradient)
                self.rule.step_rows(table, rows, of_rows)
        self.centre_gradients = None


class UpdateLast(torch.autograd.Function):
    """Identity; its backward pass, which all others come before, runs the update."""

    @staticmethod
    def forward(ctx, update: ClassUpdate, *tensors: Tensor):
        ctx.update = update
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_raw: Tensor, *grad_rows: Tensor):
        ctx.update.run(grad_raw, list(grad_rows))
        return None, grad_raw, *(None for _ in grad_rows)


def slices(size: int, chunk_size: int) -> Iterator[slice]:
    """Consecutive slices of `size` rows; one that is empty where there are none."""
    for start in range(0, max(size, 1), chunk_size):
        yield slice(start, min(start + chunk_size, size))


def add_rows(table: Tensor, places: Tensor, rows: Tensor) -> None:
    """table[places] += rows, in place, where a place lies in the table; waits for no GPU."""
    if len(table):
        inside = (places >= 0) & (places < len(table))
        rows = torch.where(inside[:, None], rows, 0)
        table.index_add_(0, places.clamp(0, len(table) - 1), rows)
