"""What a run will need of its device's memory, told before it starts.

Exact are the class centres, the rows for each class of regularisers, their gradients and what the optimiser
remembers of them: they grow with the number of classes, and where they alone exceed the device the run is
refused. The rest is an estimate: the backbone with its gradient and momentum; its activations, which are the
tensors that autograd keeps in a forward pass of shapes alone (torch's FakeTensorMode: nothing is computed),
and twice the largest of them for what the backward pass holds at a time; and the classifier's blocks, by the
formulas of docs/classifier.md.
"""

import os
from collections.abc import Sequence
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from ranks.sync_batch_norm import local_batch_norm
from training.optimizer import SGD, AdamW
from utils.blocks import default_chunk_size
from utils.distributed import world_size
from utils.precision import autocast

GIB = 1 << 30
BLOCK_NUMBERS = 5.5  # per number of a block (batch, chunk) in `stream`, with a loss that moves the others
BATCH_NUMBERS = 6.0  # likewise per number of the embeddings
DENSE_NUMBERS = 6.0  # likewise per number of the whole matrix of `dense`


def bytes_of_centres(cfg, regularizers: Sequence[nn.Module], num_classes: int, batch: int) -> dict[str, int]:
    """What the rank with most classes holds for each of them, exactly.

    Args:
        cfg: embedding_size, sample_rate, optimizer, momentum, freeze, head_update, head_momentum.
        regularizers: of the run, as they are before PartialFC has them.
        batch: samples in a micro-batch of all ranks.
    """
    rows = -(-num_classes // world_size())
    sampled = rows if cfg.sample_rate == 1 else min(rows, max(int(cfg.sample_rate * rows), batch))
    row = 4 * cfg.embedding_size
    rows_kept = (class_row(regularizer, cfg.embedding_size) for regularizer in regularizers)
    kept = [table for table in rows_kept if table is not None]
    learnt = row * ("head" not in cfg.freeze) + sum(table.nbytes for table in kept if table.requires_grad)
    remembered = numbers_per_weight(cfg)
    if cfg.head_momentum == "bf16" and remembered:
        remembered -= 0.5  # the momentum takes two bytes in place of four
    parts = {"centres": rows * row, "rows of regularisers": rows * sum(table.nbytes for table in kept)}
    parts["gradient"] = 0 if cfg.head_update == "fused" else sampled * learnt
    parts["optimiser"] = int(remembered * rows * learnt)
    return {name: size for name, size in parts.items() if size}


def class_row(regularizer: nn.Module, embedding_size: int) -> nn.Parameter | None:
    """`(1, ...)`, what a regulariser keeps for one class; None: nothing."""
    regularizer = deepcopy(regularizer)
    regularizer.prepare(1, embedding_size)
    return regularizer.class_rows


def numbers_per_weight(cfg) -> int:
    """What the optimiser remembers of each weight."""
    if cfg.optimizer == "sgd":
        return SGD.numbers_per_weight if cfg.momentum else 0
    return AdamW.numbers_per_weight


def bytes_of_backbone(cfg, backbone: nn.Module) -> int:
    """Weights and buffers, and of what learns the gradient and what the optimiser remembers."""
    weights = sum(tensor.nbytes for tensor in chain(backbone.parameters(), backbone.buffers()))
    learnt = sum(parameter.nbytes for parameter in backbone.parameters() if parameter.requires_grad)
    return weights + (1 + numbers_per_weight(cfg)) * learnt


def bytes_of_blocks(cfg, num_classes: int, batch: int, device: torch.device) -> int:
    """What the classifier holds beside the centres and their gradient, at most."""
    dim = cfg.embedding_size
    rows = -(-num_classes // world_size())
    if cfg.engine == "dense":
        return int(4 * DENSE_NUMBERS * batch * cfg.sample_rate * rows)
    chunk = cfg.chunk_size or default_chunk_size(batch, device)
    blocks = BLOCK_NUMBERS * min(chunk, rows) * max(batch, dim)
    return int(4 * (rows + BATCH_NUMBERS * batch * dim + blocks))


def bytes_of_activations(
    backbone: nn.Module, batch: int, device: torch.device, precision: str, channels_last: bool
) -> int:
    """What the backbone's passes hold beside its weights, with `batch` images; an estimate.

    Neither computes nor draws anything, and changes nothing in the backbone.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    layout = torch.channels_last if channels_last else torch.contiguous_format
    with FakeTensorMode() as shapes, local_batch_norm(backbone):
        tensors = chain(backbone.named_parameters(), backbone.named_buffers())
        fakes = {name: shapes.from_tensor(tensor).to(device) for name, tensor in tensors}
        images = torch.empty(batch, 3, 112, 112, device=device).to(memory_format=layout)
        with saved_tensors_hooks(keep, lambda tensor: tensor), autocast(device, precision):
            torch.func.functional_call(backbone, fakes, images)
    own = {fake.untyped_storage()._cdata for fake in fakes.values()}
    sizes = [storage.nbytes() for key, storage in kept.items() if key not in own]
    return sum(sizes) + 2 * max(sizes, default=0)


def memory_of(device: torch.device) -> int:
    """Bytes of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def estimate_memory(
    cfg,
    backbone: nn.Module,
    regularizers: Sequence[nn.Module],
    num_classes: int,
    global_batch: int,
    device: torch.device,
) -> str:
    """A line for the log: what the run needs of the device, in GiB.

    Args:
        backbone: in training mode, on any device.
        regularizers: see `bytes_of_centres`.
        global_batch: images in an optimiser step.
    Raises:
        ValueError: the class centres with their gradient and optimiser state do not fit the device.
    """
    batch = global_batch // cfg.gradient_acc
    exact, there = bytes_of_centres(cfg, regularizers, num_classes, batch), memory_of(device)
    if sum(exact.values()) > there:
        raise ValueError(
            f"num_classes={num_classes} on {world_size()} rank(s): {in_gib(exact)} GiB are more than the "
            f"{there / GIB:.1f} GiB of {device}. More ranks share the centres out; head_update='fused' needs "
            "no gradient, sample_rate < 1 a small one; optimizer='sgd' remembers half of what 'adamw' does"
        )
    images = -(-batch // world_size())
    estimated = {
        "blocks of the classifier": bytes_of_blocks(cfg, num_classes, batch, device),
        "backbone": bytes_of_backbone(cfg, backbone),
    }
    try:
        layout = cfg.precision, cfg.channels_last
        estimated["activations"] = bytes_of_activations(backbone, images, device, *layout)
    except Exception as error:  # a layer whose shapes torch cannot tell: no reason not to train
        estimated[f"activations not known ({type(error).__name__})"] = 0
    together = sum(exact.values()) + sum(estimated.values())
    return (
        f"memory in GiB: class {in_gib(exact)}; estimated: {in_gib(estimated)}; together "
        f"{together / GIB:.2f} of {there / GIB:.1f}"
    )


def in_gib(parts: dict[str, int]) -> str:
    """`gradient 1.91, optimiser 1.91`."""
    return ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
