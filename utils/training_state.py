"""Everything that the next training step depends on, into a checkpoint and back."""

from pathlib import Path

import torch
from torch import nn

from utils import checkpoint
from utils.distributed import rank
from utils.optimizer import restore_optimizer_state, split_optimizer_state
from utils.seeds import seed_of


class TrainingState:
    """Backbone, head, optimiser and scaler as one thing to save and load; every rank calls both.

    What is sharded over the ranks (`head.class_parameters()` and the optimiser's state of them) is saved by
    class, everything else once: a checkpoint does not depend on the number of ranks. The order of the data
    and a step's randomness are functions of (seed, epoch, step), so the step alone stands for them.

    Args:
        per_rank: the settings batch_size and gradient_acc, see `saved_batch`.
        fixed: by name, what has to be the same in every run that goes on from a checkpoint; numbers or text.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler,
        per_rank: dict[str, int] | None = None,
        **fixed,
    ):
        self.backbone, self.head, self.optimizer, self.scaler = backbone, head, optimizer, scaler
        self.per_rank, self.fixed = per_rank or {}, fixed

    def save(self, folder: Path, step: int) -> None:
        """Write the checkpoint of `step`; buffers of the backbone have to be equal on all ranks by now."""
        centres = self.head.class_parameters()
        optimizer, sharded = split_optimizer_state(self.optimizer, learnt(centres))
        shared = {
            "step": step,
            "fixed": self.fixed,
            "per_rank": self.per_rank,
            "backbone": self.backbone.state_dict(),
            "head": {name: value for name, value in self.head.state_dict().items() if name not in centres},
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
        }
        sharded |= {name: parameter.detach() for name, parameter in centres.items()}
        checkpoint.save(folder, step, shared, sharded, self.head.class_start)

    def load(self, folder: Path, step: int) -> None:
        """Put back the checkpoint of `step`.

        Raises:
            ValueError: it belongs to another network, loss, optimiser or number of classes, or what has to
                stay as it was does not.
        """
        head, centres = self.head, self.head.class_parameters()
        shared, sharded = checkpoint.load(
            folder, head.class_start, head.num_local, step, num_classes=head.num_classes
        )
        for name, value in shared.get("fixed", {}).items():
            if name in self.fixed and self.fixed[name] != value:
                raise ValueError(
                    f"the checkpoint in {folder} is of a run with {name} {value}, this one has "
                    f"{self.fixed[name]}: step {step} would not be where it stopped"
                )
        try:
            self.backbone.load_state_dict(shared["backbone"])
            head.load_state_dict(shared["head"] | {name: sharded[name] for name in centres})
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"the checkpoint in {folder} is of another network or loss than this config's: {reason}"
            ) from None
        restore_optimizer_state(self.optimizer, learnt(centres), shared["optimizer"], sharded)
        if self.scaler.is_enabled() and shared["scaler"]:  # empty if that run had another precision
            self.scaler.load_state_dict(shared["scaler"])


def learnt(parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The parameters that the optimiser updates; a regulariser may update its own ones by a formula."""
    return {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}


def find_checkpoint(folder: Path, resume: bool) -> int:
    """The step to start from: the newest checkpoint's if resuming, else 0.

    Raises:
        FileNotFoundError: there is none to resume from.
        ValueError: there are checkpoints, and `resume` is off: a new run would delete them.
    """
    newest = checkpoint.latest_step(folder)
    if resume and newest is None:
        raise FileNotFoundError(
            f"resume=true, but there is no checkpoint in {folder}: leave it out to start, or name the folder "
            "of the run with output=..."
        )
    if newest and not resume:
        raise ValueError(
            f"{folder} holds a checkpoint of step {newest}: go on from it with resume=true, choose another "
            "output=..., or delete the folder"
        )
    return newest or 0


def saved_batch(folder: Path, step: int) -> dict[str, int]:
    """The global_batch, batch_size and gradient_acc of the run that wrote the checkpoint of `step`.

    Empty for step 0, where a run starts. What an earlier version did not save is left out.
    """
    if step == 0:
        return {}
    shared = checkpoint.load_shared(folder, step)
    batch = {name: value for name, value in shared.get("fixed", {}).items() if name == "global_batch"}
    return batch | shared.get("per_rank", {})


def seed_step(seed: int, step: int) -> None:
    """Make what torch draws in this step (dropout, perturbations) a function of (seed, rank, step)."""
    torch.manual_seed(seed_of(seed, rank(), step))
