"""The network of a training run: built, filled with trained weights, adapted, frozen, as the config says.

What is frozen gets no gradient, and its modules stay in evaluation mode: BatchNorm normalises by its running
statistics, which do not move, and dropout and masks rest.
"""

import json
import logging
import shlex
from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.errors import check_arguments, nearest
from utils.frozen import to_builtin
from utils.log_files import LOGGER_NAME

from .backbone import Backbone
from .loading import load_backbone, misfits
from .lora import add_lora
from .registry import get_model

HEAD = "head"  # among the patterns of `freeze`: the class centres


def build_backbone(cfg) -> Backbone:
    """The network on the CPU; equal on every rank, if torch's generator is.

    Args:
        cfg: network, embedding_size, dropout, grad_checkpointing, network_args, pretrained, input_order,
            lora, freeze, freeze_bn.
    Raises:
        FileNotFoundError, ValueError: as `load_backbone`; weights of another network; a pattern of `freeze`
            or `lora.layers` that fits nothing.
    """
    backbone = get_model(
        cfg.network,
        num_features=cfg.embedding_size,
        dropout=cfg.dropout,
        grad_checkpointing=cfg.grad_checkpointing,
        **to_builtin(cfg.network_args),
    )
    backbone.input_order = cfg.input_order or "RGB"
    if cfg.pretrained is not None:
        fill(backbone, cfg)
    if cfg.lora is not None:
        check_arguments("lora", add_lora, cfg.lora, hidden=["backbone"])
        add_lora(backbone, **to_builtin(cfg.lora))
    if cfg.freeze_bn or cfg.lora is not None:
        hold(backbone, [part for part in backbone.modules() if isinstance(part, _BatchNorm)])
    freeze(backbone, [pattern for pattern in cfg.freeze if pattern != HEAD])
    return backbone


def fill(backbone: Backbone, cfg) -> None:
    """Put the weights of `cfg.pretrained` into the network, which then sees colours in their order.

    Raises:
        ValueError: they are of another network; the message says which settings fit.
    """
    source = load_backbone(cfg.pretrained, input_order=cfg.input_order)
    wrong = misfits(backbone.state_dict(), source.state_dict()) or other_heads(backbone, source)
    if wrong:
        settings = [f"network={source.network}", f"embedding_size={source.num_features}"]
        settings += [f"network_args={json.dumps(source.network_args)}"] if source.network_args else []
        raise ValueError(
            f"pretrained={cfg.pretrained} is another network than network={cfg.network!r} with "
            f"embedding_size={cfg.embedding_size} ({wrong[0]}): set {shlex.join(settings)}"  # for a shell
        )
    backbone.load_state_dict(source.state_dict())
    backbone.input_order = source.input_order
    logger = logging.getLogger(LOGGER_NAME)
    logger.info("the backbone starts from %s, %s, %s", cfg.pretrained, source.network, source.input_order)


def other_heads(network: nn.Module, source: nn.Module) -> list[str]:
    """Where attention is divided into another number of heads, which no shape of a weight tells."""
    heads = [
        {name: part.num_heads for name, part in one.named_modules() if hasattr(part, "num_heads")}
        for one in (network, source)
    ]
    return [
        f"{name} has {n} heads, there {heads[1].get(name)}"
        for name, n in heads[0].items()
        if heads[1].get(name) != n
    ]


def load_teacher(cfg, device: torch.device) -> Backbone | None:
    """The network of `cfg.teacher` in evaluation mode and without gradients; None where there is none.

    Raises:
        FileNotFoundError, ValueError: as `load_backbone`, or it has another embedding_size.
    """
    if cfg.teacher is None:
        return None
    teacher = load_backbone(cfg.teacher, input_order=cfg.distillation.get("input_order"))
    if teacher.num_features != cfg.embedding_size:
        raise ValueError(
            f"teacher={cfg.teacher} has embeddings of {teacher.num_features} numbers, which cannot be "
            f"compared with embedding_size={cfg.embedding_size}: set embedding_size={teacher.num_features}"
        )
    layout = torch.channels_last if cfg.channels_last else torch.contiguous_format
    return teacher.requires_grad_(False).to(device, memory_format=layout)


def freeze(backbone: Backbone, patterns: Iterable[str]) -> None:
    """Keep parts of the network as they are.

    Args:
        patterns: names of modules or parameters, with wildcards: "layer1", "blocks.[0-5]", "*" for all. With
            a module goes all that is in it.
    Raises:
        ValueError: a pattern fits nothing; names the nearest.
    """
    modules, parameters = dict(backbone.named_modules()), dict(backbone.named_parameters())
    for pattern in patterns:
        fitting = [name for name in [*modules, *parameters] if name and fnmatchcase(name, pattern)]
        if not fitting:
            tops = ", ".join(name for name, _ in backbone.named_children())
            raise ValueError(
                f"freeze: {pattern!r} is no part of this network{nearest(pattern, modules)} (it has {tops}; "
                f"and {HEAD!r}, the class centres)"
            )
        parts = [modules[name] for name in fitting if name in modules]
        for part in [*parts, *(parameters[name] for name in fitting if name in parameters)]:
            part.requires_grad_(False)
        hold(backbone, parts)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        hold(backbone, [backbone])  # a vision transformer masks its tokens itself


def hold(backbone: Backbone, modules: Iterable[nn.Module]) -> None:
    """Keep these modules, and all inside them, in evaluation mode, also while the network trains."""
    backbone.held = (*backbone.held, *modules)
    backbone.train(backbone.training)
