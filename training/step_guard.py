"""A training step whose loss or gradient is not finite, on any rank, changes nothing.

Such a step is skipped on all ranks alike, in every precision: weights, optimiser, running statistics of
BatchNorm, states of the loss and memories of regularisers stay as they were before it. One float crosses the
network in a step. Nothing waits for a GPU: there the verdict stays on the device, the fused optimisers read
it, and the statistics are put back by `torch.where`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from utils.buffers import FlatBuffers
from utils.distributed import all_max
from utils.errors import GroupError


class StepGuard:
    """Ends a step: looks for numbers that are not finite, clips, and updates or skips.

        guard.begin()
        ... forward and backward passes; guard.add(loss) between the two ...
        guard.end()

    With head_update="fused" the centres move in the backward pass, if the loss and the gradient of the
    embeddings are finite on all ranks. If the backbone's gradient is not, which only comes out afterwards,
    all but the centres (and trained class_rows) is skipped.

    Args:
        head: PartialFC, which can put back the rows that a regulariser replaces by a formula; its
            update_rule, where it has one, is told the loss of the step and asked whether it has skipped.
        optimizer: of both networks; fused where they are on a GPU (`build_optimizer` sees to it).
        scaler: of the loss, for float16.
        cfg: grad_clip, the largest norm of the backbone's gradient (0: any), and max_skipped_steps.
        steps: that are to be done; their end is that of the whole run.

    Attributes:
        num_skipped: `()`, steps skipped so far, on the device.
        num_skipped_late: `()`, those among them in which the centres had already moved.
        in_a_row: `()`, how many of the last steps were skipped without a break, on the device.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        cfg,
        steps: range,
    ):
        self.backbone, self.head, self.optimizer, self.scaler = backbone, head, optimizer, scaler
        self.grad_clip, self.max_skipped = cfg.grad_clip, cfg.max_skipped_steps
        self.num_steps, self.first_step, self.steps_left = steps.stop, steps.start, len(steps)
        self.is_save_postponed = False
        self.is_fused = all(group.get("fused") for group in optimizer.param_groups)
        self.state = FlatBuffers(nn.ModuleList([backbone, head]))
        zero = torch.zeros((), device=head.weight.device)
        self.num_skipped, self.in_a_row, self.loss_sum, self.num_summed = (zero.clone() for _ in range(4))
        self.num_skipped_late, self.update_rule = zero.clone(), head.update_rule

    def begin(self) -> None:
        """Before the first forward pass of a step."""
        self.state.remember()
        self.head.remember_class_rows()
        self.step_loss = torch.zeros_like(self.loss_sum)
        if self.update_rule is not None:
            self.update_rule.begin(self.step_loss)

    def add(self, loss: Tensor) -> None:
        """What a micro-batch adds to the loss of the step; before its backward pass."""
        self.step_loss += loss.detach()

    @torch.no_grad()
    def end(self) -> None:
        """After the last backward pass: update the weights, or put back what the step has changed."""
        self.scaler.unscale_(self.optimizer)
        norm, norm_of_head = (get_total_norm(gradients(part)) for part in (self.backbone, self.head))
        is_finite = torch.isfinite(norm + norm_of_head + self.step_loss)
        skipped = all_max((~is_finite).float())  # 1 on all ranks or 0 on all
        if self.update_rule is not None:
            self.num_skipped_late += skipped * (1 - self.update_rule.skipped)
            skipped = torch.maximum(skipped, self.update_rule.skipped)
        if self.grad_clip:
            clip_grads_with_norm_(self.backbone.parameters(), self.grad_clip, norm)
        self._update(skipped)
        self.optimizer.zero_grad(set_to_none=True)
        self.state.put_back(skipped)
        self.head.put_back_class_rows(skipped)
        self.num_skipped += skipped
        self.in_a_row = (self.in_a_row + 1) * skipped
        self.loss_sum += torch.where(skipped > 0, 0, self.step_loss)
        self.num_summed += 1 - skipped
        self.steps_left -= 1

    def _update(self, skipped: Tensor) -> None:
        if self.scaler.is_enabled():
            for found_inf in self.scaler._found_inf_per_device(self.optimizer).values():
                found_inf.copy_(skipped)  # the scaler looks at gradients alone, and not at the loss
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.is_fused:
            self.optimizer.grad_scale, self.optimizer.found_inf = None, skipped
            self.optimizer.step()
        elif not skipped:  # on a CPU, where a look at the number waits for nobody
            self.optimizer.step()

    def numbers(self) -> dict[str, float]:
        """For the log; waits for the GPU.

        Returns:
            loss: the mean of the steps since the last call that were not skipped, NaN without any; skipped:
            the number of skipped steps so far; with head_update="fused" skipped_late, of num_skipped_late;
            with a scaler loss_scale, which halves with each skipped step.
        """
        mean = (self.loss_sum / self.num_summed).item()
        self.loss_sum.zero_(), self.num_summed.zero_()
        scale = {"loss_scale": self.scaler.get_scale()} if self.scaler.is_enabled() else {}
        late = {} if self.update_rule is None else {"skipped_late": int(self.num_skipped_late)}
        return {"loss": mean, "skipped": int(self.num_skipped), **late, **scale}

    def is_time_to_save(self, due: bool) -> bool:
        """Whether to save after this step; waits for the GPU where it may be.

        A save that is due comes after a skipped step only once one is not skipped again: it would replace
        older checkpoints by one whose weights perhaps cannot do a step any more.
        """
        if due or self.is_save_postponed:
            self.is_save_postponed = bool(self.in_a_row)
            return not self.is_save_postponed
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a run goes on counting from; equal on every rank."""
        names = ("num_skipped", "num_skipped_late", "in_a_row")
        return {name: getattr(self, name) for name in names} | {"is_save_postponed": self.is_save_postponed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned; an older checkpoint lacks num_skipped_late."""
        self.num_skipped.copy_(state["num_skipped"]), self.in_a_row.copy_(state["in_a_row"])
        self.num_skipped_late.copy_(state.get("num_skipped_late", self.num_skipped_late))
        self.is_save_postponed = state["is_save_postponed"]

    def stop_if_stuck(self, explain: Callable[[], str]) -> None:
        """Stop where more steps in a row were skipped than max_skipped_steps; waits for the GPU.

        At the end of a run half of its steps are too many: it would have learnt in its first half alone. (Not
        with a scaler, whose search for a scale skips the first steps of a run on purpose.)

        Args:
            explain: tells the cause; called on every rank.
        Raises:
            GroupError: the number of steps and the cause.
        """
        in_a_row, at_end = int(self.in_a_row), not self.steps_left and not self.scaler.is_enabled()
        if in_a_row > (min(self.max_skipped, self.num_steps // 2) if at_end else self.max_skipped):
            step = self.num_steps - self.steps_left
            never = self.first_step and in_a_row >= step - self.first_step
            remedy = f", all since the checkpoint of step {self.first_step}: go back to one before it"
            raise GroupError(
                f"step {step}: {in_a_row} steps in a row were skipped, as loss or gradient was not finite "
                f"(max_skipped_steps={self.max_skipped}){remedy if never else ''}: {explain()}"
            )


def gradients(module: nn.Module) -> list[Tensor]:
    """The gradients of all parameters that have one; of a sparse one its values.

    Not coalesced, for which a GPU would be waited for: a row may be there in several parts.
    """
    found = (parameter.grad for parameter in module.parameters() if parameter.grad is not None)
    return [grad._values() if grad.is_sparse else grad for grad in found]
