"""Everything that the next training step depends on, into a checkpoint and back."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ranks.agreement import compare_ranks
from ranks.fail_together import exchange, fail_together
from training import checkpoint
from training.identity import RunIdentity
from training.optimizer import restore_optimizer_state, split_optimizer_state
from training.rank_buffers import restore_buffers
from training.run_folder import RunFolder
from utils.command_line import EndOfScript
from utils.distributed import rank
from utils.errors import GroupError
from utils.progress import here
from utils.seeds import seed_of


class TrainingState:
    """Backbone, head, optimiser and scaler as one thing to save and load; every rank calls both.

    What is sharded over the ranks (`head.class_parameters()` and the optimiser's state of them) is saved by
    class, everything else once: a checkpoint does not depend on the number of ranks. The order of the data
    and a step's randomness are functions of (seed, epoch, step), so the step alone stands for them.

    Args:
        identity: of the run; kept in its checkpoints and compared with theirs. None: neither.
        parts: by name, more objects with a `state_dict` that is equal on every rank, and a `load_state_dict`;
            those that are None are left out.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler,
        identity: RunIdentity | None = None,
        **parts,
    ):
        self.backbone, self.head, self.optimizer, self.scaler = backbone, head, optimizer, scaler
        self.identity = identity
        self.parts = {name: part for name, part in parts.items() if part is not None}

    def shared(self) -> tuple[dict, dict[str, Tensor]]:
        """(what every rank holds alike, what is sharded by class)."""
        centres = self.head.class_parameters()
        optimizer, sharded = split_optimizer_state(self.optimizer, learnt(centres))
        shared = {
            "backbone": self.backbone.state_dict(),
            "head": {name: value for name, value in self.head.state_dict().items() if name not in centres},
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
        }
        return shared, sharded | {name: parameter.detach() for name, parameter in centres.items()}

    def save(self, folder: Path, step: int, buffers: Tensor | None = None) -> None:
        """Write the checkpoint of `step`; buffers of the backbone have to be equal on all ranks by now.

        Args:
            buffers: what `gather_buffers` returned before they were made equal: a run on as many ranks
                goes on from these, as if nothing had been saved. None: it goes on from the equal ones.
        """
        shared, sharded = self.shared()
        if self.identity is not None:
            group = self.optimizer.param_groups[0]
            shared |= self.identity.state_dict(lr=group["lr"] / group.get("lr_factor", 1))
        shared |= {"step": step, "buffers_of_ranks": buffers}
        shared["parts"] = {name: part.state_dict() for name, part in self.parts.items()}
        checkpoint.save(folder, step, shared, sharded, self.head.class_start)
        here.saved = step

    def load(self, folder: Path, step: int) -> None:
        """Put back the checkpoint of `step`.

        Raises, on every rank:
            ValueError: it belongs to another network, loss, optimiser or number of classes, or what has to
                stay as it was does not.
        """
        with fail_together():
            self._load(folder, step)
        here.saved = step

    def _load(self, folder: Path, step: int) -> None:
        head, centres = self.head, self.head.class_parameters()
        shared, sharded = checkpoint.load(
            folder, head.class_start, head.num_local, step, num_classes=head.num_classes
        )
        if self.identity is not None:
            self.identity.compare_with(shared, folder, step)
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
        for name in self.parts.keys() & shared.get("parts", {}):  # earlier versions kept none
            self.parts[name].load_state_dict(shared["parts"][name])
        if self.scaler.is_enabled() and shared["scaler"]:  # empty if that run had another precision
            self.scaler.load_state_dict(shared["scaler"])

    def check_ranks(self, step: int) -> None:
        """Raise on every rank where one holds other weights or states than rank 0; waits for the GPU.

        Compared are sums over the bits of all that is not sharded, but for BatchNorm's statistics, which each
        rank collects on its own: a difference in one number shows, two that cancel out do not. A number for
        each tensor crosses the network.
        """
        compare_ranks(
            bit_sums(self._replicated()),
            f"after step {step} the ranks have to hold the same numbers; a machine or the network between "
            "them is at fault, or a loss draws at random; on machines of different kinds, which may round "
            "differently, check_ranks_every=0 lets them",
        )

    def _replicated(self) -> dict[str, Tensor]:
        """By name, what every rank holds alike."""
        shared, _ = self.shared()
        tensors = {f"backbone.{name}": tensor for name, tensor in self.backbone.named_parameters()}
        tensors |= {f"head.{name}": value for name, value in shared["head"].items()}
        names = {id(tensor): name for name, tensor in self.backbone.named_parameters("backbone")}
        names |= {id(tensor): name for name, tensor in self.head.named_parameters("head")}
        order = [names[id(tensor)] for group in self.optimizer.param_groups for tensor in group["params"]]
        for position, state in shared["optimizer"]["state"].items():
            tensors |= {f"{key} of {order[position]}": value for key, value in state.items()}
        return {name: value for name, value in tensors.items() if isinstance(value, Tensor)}

    def bytes_of_save(self, *, checkpoint: bool, num_models: int = 1) -> int:
        """About how much one save writes: files of the model and, if wanted, a checkpoint of all ranks."""
        of_backbone = sum(tensor.nbytes for tensor in self.backbone.parameters())
        share = self.head.num_classes / max(self.head.num_local, 1)
        of_head = round(share * sum(tensor.nbytes for tensor in self.head.parameters()))
        of_checkpoint = (1 + self.optimizer.numbers_per_weight) * (of_backbone + of_head)
        return num_models * of_backbone + (of_checkpoint if checkpoint else 0)


def bit_sums(tensors: dict[str, Tensor]) -> dict[str, int]:
    """The sum over the bits of each tensor, read as integers, modulo 2^64: exact, in whatever order."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [
        tensor.detach().view(integers[tensor.element_size()]).sum(dtype=torch.int64)
        for tensor in tensors.values()
    ]
    device = sums[0].device
    return dict(zip(tensors, torch.stack([value.to(device) for value in sums]).tolist()))


def learnt(parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The parameters that the optimiser updates; a regulariser may update its own ones by a formula."""
    return {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}


def find_checkpoint(folder: Path, resume: bool | str) -> int:
    """The step to start from: the newest checkpoint's if resuming, else 0; rank 0 finds it for all.

    (Over a network file system another machine may see a list of files that is some seconds old.)

    Args:
        resume: "auto": as true if there is a checkpoint, as false if not.
    Raises, on every rank:
        FileNotFoundError: there is none, and `resume` is true.
        ValueError: there are checkpoints or a model, and `resume` is false: a new run would replace them.
    """
    with fail_together():
        newest = exchange(checkpoint.latest_step(folder))[0]
        if resume is True and newest is None:
            raise FileNotFoundError(
                f"resume=true, but there is no checkpoint in {folder}: leave it out to start, say "
                "resume=auto to start or go on, or name the folder of the run with output=..."
            )
        if newest and resume is False:
            raise ValueError(
                f"{folder} holds a checkpoint of step {newest}: go on from it with resume=true (or "
                "resume=auto, where torchrun or a scheduler starts the run again), choose another "
                "output=..., or delete the folder"
            )
        if newest is None and resume is False and (model := folder.parent / "model.pt").exists():
            raise ValueError(
                f"{model} is of an earlier run, which this one would replace: choose another output=..., or "
                "delete the folder"
            )
    return newest or 0


def require_steps_left(folder: RunFolder, first_step: int, total_steps: int, resume: bool | str) -> None:
    """Leave a run that has no step to do: whoever starts runs again and again is told that this one is done.

    Raises:
        EndOfScript: under resume="auto"; exit code 0.
        GroupError: else.
    """
    if first_step < total_steps:
        return
    line = (
        f"the checkpoint in {folder.path} is of step {first_step}, and the run ends at step {total_steps}: "
        "nothing is left to do; a larger num_epoch or num_steps goes on"
    )
    folder.release()
    if resume == "auto":
        raise EndOfScript(line if rank() == 0 else "", code=0, elsewhere=line, ranks_know=True)
    raise GroupError(line)


def saved_batch(folder: Path, step: int) -> dict[str, int]:
    """The global_batch, batch_size and gradient_acc of the run that wrote the checkpoint of `step`.

    Empty for step 0, where a run starts. What an earlier version did not save is left out.
    """
    if step == 0:
        return {}
    shared = checkpoint.load_shared(folder, step)
    saved = shared.get("changeable", {}) | shared.get("fixed", {})  # the latter's global_batch is the number
    return {name: saved[name] for name in ("global_batch", "batch_size", "gradient_acc") if name in saved}


def seed_step(seed: int, step: int) -> None:
    """Make what torch draws in this step (dropout, perturbations) a function of (seed, rank, step)."""
    torch.manual_seed(seed_of(seed, rank(), step))
