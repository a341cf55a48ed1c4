"""The learning rate in closed form: a function of the step alone, so resuming needs no scheduler state."""

import functools
import math
from bisect import bisect_right
from collections.abc import Sequence

from utils.errors import nearest

FIRST_LOGGED = (1, 2, 5)
SCHEDULERS = ("poly", "multistep", "cosine")


def learning_rate(
    step: int,
    *,
    base_lr: float,
    total_steps: int,
    warmup_steps: int = 0,
    scheduler: str = "poly",
    power: float = 1.0,
    milestones: Sequence[int] = (),
    decay: float = 0.1,
) -> float:
    """The learning rate of optimiser step `step`, counted from 0.

    All schedules share a linear warm-up, base_lr · max(step, 1) / warmup_steps. (insightface runs its very
    first step at the full base_lr; here it runs at the second one's.) With p, the share of the steps after
    the warm-up that are done, they continue as

        poly        base_lr · (1 − p)^power
        cosine      base_lr · (1 + cos πp) / 2
        multistep   base_lr · decay^(number of milestones reached)

    Args:
        step: in 0 … total_steps − 1; total_steps itself gives the end of the schedule.
        warmup_steps: length of the warm-up; 0: none.
        power: of `poly`; 1 is linear.
        milestones: of `multistep`: steps, counted from 0 with the warm-up included, ascending.
        decay: of `multistep`: the factor at each milestone.
    Raises:
        ValueError: an unknown scheduler, a step outside the run, or a warm-up longer than it.
    """
    if scheduler not in SCHEDULERS:
        raise ValueError(f"scheduler {scheduler!r}: allowed are {SCHEDULERS}{nearest(scheduler, SCHEDULERS)}")
    if not 0 <= step <= total_steps:
        raise ValueError(f"step {step} is outside the schedule's 0 … {total_steps}")
    if warmup_steps > total_steps:
        raise ValueError(
            f"the warm-up of {warmup_steps} steps is longer than the run of {total_steps} steps: a short run "
            "goes without one, warmup_epoch=0"
        )
    if step < warmup_steps:
        return base_lr * max(step, 1) / warmup_steps
    if scheduler == "multistep":
        return base_lr * decay ** bisect_right(milestones, step)
    done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return base_lr * ((1 + math.cos(math.pi * done)) / 2 if scheduler == "cosine" else (1 - done) ** power)


class Schedule:
    """The steps of a run, counted from 0, and the learning rate of each: `schedule(step)`; out of a config.

    An epoch has one step for each `gradient_acc` batches of the loader. Where `lr_reference_batch` is given,
    `lr` is the rate for that many images a step, and grows in proportion with the global batch. What the
    config counts in epochs, `warmup_epoch` and `milestones`, becomes steps, rounded.

    Args:
        cfg: a loaded config.
        num_batches: batches of an epoch on one rank; the same on every rank.
        global_batch: images of one step, on all ranks and in all micro-batches together.
    Raises:
        ValueError: no step fits into an epoch, or the warm-up is longer than the run.
    """

    def __init__(self, cfg, num_batches: int, global_batch: int):
        self.steps_per_epoch = num_batches // cfg.gradient_acc
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"gradient_acc={cfg.gradient_acc} asks for more batches than an epoch's {num_batches}: "
                "lower it, or batch_size"
            )
        self.total_steps = cfg.num_steps or cfg.num_epoch * self.steps_per_epoch
        self.frequent = cfg.frequent
        self.base_lr = cfg.lr * (global_batch / (cfg.lr_reference_batch or global_batch))
        self._learning_rate = functools.partial(
            learning_rate,
            base_lr=self.base_lr,
            total_steps=self.total_steps,
            warmup_steps=round(cfg.warmup_epoch * self.steps_per_epoch),
            scheduler=cfg.scheduler,
            power=cfg.poly_power,
            milestones=[round(epoch * self.steps_per_epoch) for epoch in cfg.milestones],
            decay=cfg.lr_decay,
        )
        self(0)  # raises where the schedule is impossible

    def __call__(self, step: int) -> float:
        return self._learning_rate(step)

    def is_logged(self, step: int) -> bool:
        """Whether the numbers of a step, from 1, are logged: each `frequent`-th, the last, some early ones.

        So a run says soon that it works, and how fast.
        """
        return step % self.frequent == 0 or step in (*FIRST_LOGGED, self.total_steps)

    def epoch(self, step: int) -> float:
        """Passes over the data that are done when `step` begins, with fraction."""
        return step / self.steps_per_epoch
