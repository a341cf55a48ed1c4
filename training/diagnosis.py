"""Why steps are skipped: the first thing that is not finite where one batch is run again, on any rank."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from backbones.batch_norm import FrozenBatchStatistics
from backbones.lora import merged_name
from ranks.sync_batch_norm import local_batch_norm
from utils.distributed import gather_objects, rank
from utils.files import whole_file
from utils.precision import autocast

NUM_LISTED = 5  # records that the message names; the file has all


class Cause(NamedTuple):
    """Where numbers stopped being finite, in the order of a step, and what helps."""

    stage: int
    what: str
    advice: str


def explain_skips(
    step: int, networks: tuple[nn.Module, nn.Module], batch: tuple, precision: str, folder: Path
) -> str:
    """What keeps the steps up to `step` from being finite, as a message for the user; every rank calls this.

    The batch of the rank that has the first cause is saved as `folder`/skipped_step_STEP_rank_R.pt, for
    `tools/replay_step.py`.

    Args:
        networks: the bare backbone and the head, as they are now. Nothing of them changes. The backbone runs
            in the mode that it is in, and without gradients where the caller has turned them off.
        batch: of the last micro-batch, images `(b, 3, 112, 112)` as the backbone got them, labels `(b,)`,
            names of their records.
    """
    images, labels, names = batch
    cause, gradient = find_cause(*networks, images, labels, precision)
    causes = [(*cause, r) for r, cause in enumerate(gather_objects(cause)) if cause is not None]
    if not causes and precision == "fp16":
        return (
            "the same batch, run once more without the scale of the loss, is finite on every rank: the scale "
            "is still too large for it and halves with each step; allow more max_skipped_steps, or train "
            "with precision=bf16 or fp32"
        )
    if not causes:
        return (
            "the same batch, run once more, is finite on every rank. Something random (dropout, ARoFace, a "
            "loss that draws), another micro-batch, a teacher, the gradient of the class centres or a fault "
            "of a machine has made the numbers that were not"
        )
    _, what, advice, at_rank = min(causes)
    file = Path(folder) / f"skipped_step_{step}_rank_{at_rank}.pt"
    if rank() == at_rank:
        content = {"images": images.cpu(), "labels": labels.cpu(), "gradient": gradient.cpu()}
        content |= {"names": list(names), "step": step, "precision": precision, **mode_of(networks[0])}
        with whole_file(file) as partial:
            torch.save(content, partial)
    first_names = ", ".join(names[:NUM_LISTED]) + (", …" if len(names) > NUM_LISTED else "")
    listed = gather_objects(first_names)[at_rank]
    of_records = f" ({listed})" if listed else ""
    return (
        f"on rank {at_rank} {what}; {advice}. The batch{of_records} is in {file}: "
        f"python tools/replay_step.py {file} shows it layer by layer"
    )


def find_cause(
    backbone: nn.Module, head: nn.Module, images: Tensor, labels: Tensor, precision: str
) -> tuple[Cause | None, Tensor]:
    """The first thing in a step with this batch that is not finite on this rank (None: there is none).

    With it comes the gradient of the embeddings, `(b, D)`, from which the backward pass can be repeated.
    """
    faulty = faulty_images(images)
    weight = first_not_finite({**dict(backbone.named_parameters()), **dict(head.named_parameters())})
    layers: list[str] = []

    def look(name: str, output: Tensor) -> None:
        if not output.isfinite().all():
            layers.append(name)

    frozen, alone = FrozenBatchStatistics(backbone), local_batch_norm(backbone)  # else a NaN is on all ranks
    with each_output(backbone, look), frozen, alone, head.only_input_gradient():
        with autocast(images.device, precision):
            embeddings = backbone(images)
        with torch.enable_grad():
            if not embeddings.requires_grad:  # of a network that is frozen as a whole, or rests
                embeddings.requires_grad_()
            loss = head(embeddings, labels)
        gradients = torch.autograd.grad(
            loss, [embeddings, *learnt(backbone).values()], allow_unused=True, materialize_grads=True
        )
    # From the loss down: the last layer's gradient comes first.
    by_name = dict(zip(["the embeddings", *learnt(backbone)], gradients))
    order = ["the embeddings", *reversed(list(learnt(backbone)))]
    gradient = first_not_finite({name: by_name[name] for name in order})
    term = first_not_finite(head.last_terms | {"the loss": loss})
    is_too_long = not get_total_norm(gradients).isfinite()
    slower = "lower lr, or add warmup_epoch"
    in_range = slower if precision == "fp32" else f"{slower}, or train with precision=fp32 or bf16"
    found = [  # in the order of a step; the first that is there is the cause
        (faulty, f"images {faulty} of the batch are not finite", "look at these records"),
        (weight, f"{weight} itself is not finite", "go on from a checkpoint, with resume=true"),
        (layers, f"the output of layer {''.join(layers[:1])} is the first that is not finite", in_range),
        (term, f"the term {term} of the loss is not finite", slower),
        (gradient, f"the gradient of {gradient} is the first that is not finite", in_range),
        (is_too_long, "the norm of the gradient is too large for float32", in_range),
    ]
    causes = [Cause(stage, what, advice) for stage, (is_there, what, advice) in enumerate(found) if is_there]
    return (causes[0] if causes else None), gradients[0]


def mode_of(backbone: nn.Module) -> dict[str, list[str]]:
    """What `tools/replay_step.py` sets in the network of model.pt, which has no adapters and is not frozen.

    "resting": modules in evaluation mode; "learning": parameters that get a gradient.
    """
    resting = [name for name, module in backbone.named_modules() if not module.training]
    learning = learnt(backbone) if torch.is_grad_enabled() else ()
    return {"resting": resting, "learning": sorted({merged_name(name) for name in learning})}


def learnt(module: nn.Module) -> dict[str, nn.Parameter]:
    """By name, the parameters that get a gradient."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def first_not_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or inf."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)


@contextmanager
def each_output(network: nn.Module, look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within, the forward pass calls look(name, output) for each layer that has no layers inside."""
    hooks = []
    for name, layer in network.named_modules():
        if not any(True for _ in layer.children()):

            def hook(layer, inputs, output, name=name):
                if isinstance(output, Tensor):
                    look(name, output)

            hooks.append(layer.register_forward_hook(hook))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def faulty_images(images: Tensor) -> list[int]:
    """The positions of images `(b, ...)` that hold NaN or inf."""
    return (~images.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
