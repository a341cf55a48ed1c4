"""Everything that the next training step depends on, into a checkpoint and back."""

from pathlib import Path

import torch
from torch import Tensor, nn

from utils import checkpoint
from utils.command_line import EndOfScript
from utils.distributed import broadcast, rank
from utils.optimizer import restore_optimizer_state, split_optimizer_state
from utils.progress import here
from utils.rank_buffers import restore_buffers
from utils.seeds import seed_of


class TrainingState:
    """Backbone, head, optimiser and scaler as one thing to save and load; every rank calls both.

    What is sharded over the ranks (`head.class_parameters()` and the optimiser's state of them) is saved by
    class, everything else once: a checkpoint does not depend on the number of ranks. The order of the data
    and a step's randomness are functions of (seed, epoch, step), so the step alone stands for them.

    Args:
        fixed: by name, what has to be the same in every run that goes on from a checkpoint; numbers or text.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, optimizer: torch.optim.Optimizer, scaler, **fixed
    ):
        self.backbone, self.head, self.optimizer, self.scaler = backbone, head, optimizer, scaler
        self.fixed = fixed

    def save(self, folder: Path, step: int, buffers: Tensor | None = None) -> None:
        """Write the checkpoint of `step`; buffers of the backbone have to be equal on all ranks by now.

        Args:
            buffers: what `gather_buffers` returned before they were made equal: a run on as many ranks
                goes on from these, as if nothing had been saved. None: it goes on from the equal ones.
        """
        centres = self.head.class_parameters()
        optimizer, sharded = split_optimizer_state(self.optimizer, learnt(centres))
        shared = {
            "step": step,
            "fixed": self.fixed,
            "backbone": self.backbone.state_dict(),
            "buffers_of_ranks": buffers,
            "head": {name: value for name, value in self.head.state_dict().items() if name not in centres},
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
        }
        sharded |= {name: parameter.detach() for name, parameter in centres.items()}
        checkpoint.save(folder, step, shared, sharded, self.head.class_start)
        here.saved = step

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
        if shared.get("buffers_of_ranks") is not None:
            restore_buffers(self.backbone, shared["buffers_of_ranks"])
        restore_optimizer_state(self.optimizer, learnt(centres), shared["optimizer"], sharded)
        if self.scaler.is_enabled() and shared["scaler"]:  # empty if that run had another precision
            self.scaler.load_state_dict(shared["scaler"])
        here.saved = step


def learnt(parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The parameters that the optimiser updates; a regulariser may update its own ones by a formula."""
    return {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}


def find_checkpoint(folder: Path, resume: bool | str) -> int:
    """The step to start from: the newest checkpoint's if resuming, else 0; rank 0 finds it for all.

    (Over a network file system another machine may see a list of files that is some seconds old.)

    Args:
        resume: "auto": as true if there is a checkpoint, as false if not.
    Raises:
        FileNotFoundError: there is none, and `resume` is true.
        ValueError: there are checkpoints, and `resume` is false: a new run would delete them.
    """
    newest = int(broadcast(torch.tensor(checkpoint.latest_step(folder) or 0)))
    if resume is True and not newest:
        raise FileNotFoundError(
            f"resume=true, but there is no checkpoint in {folder}: leave it out to start, say resume=auto to "
            "start or go on, or name the folder of the run with output=..."
        )
    if newest and resume is False:
        raise ValueError(
            f"{folder} holds a checkpoint of step {newest}: go on from it with resume=true (or resume=auto, "
            "where torchrun or a scheduler starts the run again), choose another output=..., or delete the "
            "folder"
        )
    return newest


def require_steps_left(output: Path, first_step: int, total_steps: int, resume: bool | str) -> None:
    """Leave a run that has no step to do: whoever starts runs again and again is told that this one is done.

    Raises:
        EndOfScript: under resume="auto"; exit code 0.
        ValueError: else.
    """
    if first_step < total_steps:
        return
    line = f"the checkpoint in {output} is of step {first_step}, and the run ends at step {total_steps}: "
    line += "nothing is left to do; a larger num_epoch or num_steps goes on"
    if resume == "auto":
        raise EndOfScript(line if rank() == 0 else "", code=0)
    raise ValueError(line)


def seed_step(seed: int, step: int) -> None:
    """Make what torch draws in this step (dropout, perturbations) a function of (seed, rank, step)."""
    torch.manual_seed(seed_of(seed, rank(), step))
