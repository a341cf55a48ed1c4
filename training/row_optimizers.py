"""SGD and AdamW that can move a part of the rows of a parameter: class centres are too many for one piece.

A part of a parameter, with its share of the state, stands in for the parameter in a step of the torch
optimiser, so that weight decay, momentum and moments are torch's own, also in its fused kernels.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ROWS_AT_A_TIME = 1 << 14  # of a pass over all centres: 32 MiB of float32 gradient at 512 dimensions


class RowOptimizer:
    """Mix-in before a `torch.optim` class: sparse gradients, and steps of some rows.

    A parameter with a sparse gradient is replaced, for the duration of one step, by a dense block of its
    sampled rows with their share of the state. State without rows (AdamW's step count) belongs to the whole
    parameter: a row that is sampled rarely has moments of few steps, but their bias is corrected as for all
    steps. Cost: a copy of the sampled rows and of their state, there and back.

    Attributes:
        moves_every_row: what a sparse gradient means. False: the other rows stay, bit for bit. True: their
            gradient is 0, so that decay and momentum move them, in a further pass over all rows.
    """

    moves_every_row = False

    @torch.no_grad()
    def step(self, closure=None):
        """As torch's; see the class for sparse gradients."""
        whole = [group["params"] for group in self.param_groups]
        blocks: list[tuple[Tensor, Tensor, Tensor]] = []
        replaced = [[self._gather(parameter, blocks) for parameter in params] for params in whole]
        if self.moves_every_row:
            for parameter, _, _ in blocks:  # the sampled rows have been copied, and come back below
                self._step_without_gradient(parameter)
        try:
            for group, parameters in zip(self.param_groups, replaced):
                group["params"] = parameters
            result = super().step(closure)
        finally:
            for group, parameters in zip(self.param_groups, whole):
                group["params"] = parameters
            states = [self.state.pop(block, {}) for _, _, block in blocks]
        for (parameter, rows, block), state in zip(blocks, states):
            self._scatter(parameter, rows, block, state)
        return result

    @torch.no_grad()
    def step_rows(self, parameter: Tensor, rows: slice, gradient: Tensor, shared: dict[str, Tensor]) -> None:
        """One step of some consecutive rows alone, in place.

        Args:
            parameter: of one of the groups, after `start_state`.
            gradient: `(rows, ...)`; its memory may be written to.
            shared: what `shared_state` returned before the step: each part of a step starts from it.
        """
        block = parameter.detach()[rows]
        block.grad = gradient
        of_rows = {n: v[rows] for n, v in self.state[parameter].items() if has_rows_of(v, parameter)}
        state = {name: value.to(block.dtype) for name, value in of_rows.items()}
        state |= {name: value.clone() for name, value in shared.items()}
        with self._alone(parameter, block):
            self.state[block] = state
            super().step()
            del self.state[block]
        for name, value in of_rows.items():
            if value.dtype != block.dtype:  # else the step was taken in place
                value.copy_(state[name])
        self.state[parameter].update({name: state[name] for name in shared})

    def shared_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """The parts of its state that have no rows."""
        return {n: v for n, v in self.state[parameter].items() if not has_rows_of(v, parameter)}

    def start_state(self, parameter: Tensor, dtype: torch.dtype | None = None) -> None:
        """Make what is missing of the state of a parameter.

        Args:
            dtype: of its momentum (AdamW: of the first moment); None: as it is, or as the parameter.
        """
        state, group = self.state[parameter], self._group_of(parameter)
        first, *others = self.state_with_rows
        for name, kind in {first: dtype, **dict.fromkeys(others)}.items():
            if name in state and kind is not None:
                state[name] = state[name].to(kind)
            elif name not in state and group.get("momentum") != 0:
                state[name] = torch.zeros_like(parameter, dtype=kind)
        if self.counts_steps and "step" not in state:
            state["step"] = torch.zeros((), device=parameter.device if group.get("fused") else "cpu")

    def _step_without_gradient(self, parameter: Tensor) -> None:
        self.start_state(parameter)
        shared = self.shared_state(parameter)
        for start in range(0, len(parameter), ROWS_AT_A_TIME):
            rows = slice(start, start + ROWS_AT_A_TIME)
            self.step_rows(parameter, rows, torch.zeros_like(parameter[rows]), shared)

    def _group_of(self, parameter: Tensor) -> dict:
        return next(g for g in self.param_groups if any(p is parameter for p in g["params"]))

    @contextmanager
    def _alone(self, parameter: Tensor, block: Tensor) -> Iterator[None]:
        """While entered, the block stands in for the parameter, and there are no others."""
        whole, own = [group["params"] for group in self.param_groups], self._group_of(parameter)
        try:
            for group in self.param_groups:
                group["params"] = [block] if group is own else []
            yield
        finally:
            for group, parameters in zip(self.param_groups, whole):
                group["params"] = parameters

    def _gather(self, parameter: Tensor, blocks: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        if parameter.grad is None or not parameter.grad.is_sparse:
            return parameter
        gradient = parameter.grad.coalesce()  # accumulated micro-batches name a row more than once
        rows = gradient.indices()[0]
        block = parameter.index_select(0, rows)
        block.grad = gradient.values()
        if parameter in self.state:
            self.state[block] = {
                name: value.index_select(0, rows) if has_rows_of(value, parameter) else value
                for name, value in self.state[parameter].items()
            }
        blocks.append((parameter, rows, block))
        return block

    def _scatter(self, parameter: Tensor, rows: Tensor, block: Tensor, state: dict) -> None:
        parameter.index_copy_(0, rows, block)
        for name, value in state.items():
            if has_rows_of(value, block):
                if name not in self.state[parameter]:
                    self.state[parameter][name] = torch.zeros_like(parameter)
                self.state[parameter][name].index_copy_(0, rows, value)
            else:
                self.state[parameter][name] = value


class SGD(RowOptimizer, torch.optim.SGD):
    """`torch.optim.SGD` that also takes sparse rows, and whose fused form can skip its first step too."""

    numbers_per_weight = 1  # that it remembers
    state_with_rows = ("momentum_buffer",)
    counts_steps = False

    def step(self, closure=None):
        """As torch's; the first momentum is 0 · momentum + gradient, as there."""
        for group in self.param_groups:
            if group.get("fused") and group["momentum"]:
                for parameter in group["params"]:
                    # torch would make it without a value, which a first step that is skipped leaves so.
                    if parameter.grad is not None and "momentum_buffer" not in self.state[parameter]:
                        self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return super().step(closure)


class AdamW(RowOptimizer, torch.optim.AdamW):
    """`torch.optim.AdamW` that also takes sparse rows."""

    numbers_per_weight = 2
    state_with_rows = ("exp_avg", "exp_avg_sq")
    counts_steps = True


def has_rows_of(value: object, parameter: Tensor) -> bool:
    """Whether this piece of an optimiser's state holds one row for each row of its parameter."""
    return isinstance(value, Tensor) and value.shape == parameter.shape
