"""One optimiser for the backbone and the head, and one loss scaler for all ranks.

One optimiser, so that a step happens for both or for neither. At sample_rate < 1 the gradient of the class
centres is sparse over the sampled rows. torch's SGD and AdamW cannot take it with momentum and weight decay;
those of `row_optimizers.py` do.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.row_optimizers import SGD, AdamW, has_rows_of
from utils.errors import nearest


def build_optimizer(
    cfg,
    backbone: nn.Module,
    head: nn.Module,
    lr: float,
    fused: bool = True,
    rates: Mapping[nn.Parameter, tuple[int, float]] | None = None,
) -> torch.optim.Optimizer:
    """The optimiser of everything that learns, in groups named "backbone", "head", "loss" and "no_decay".

    Parameters of the loss itself (`head.loss`: a bias, a margin) are a group of their own and never decayed.

    Args:
        cfg: optimizer ("sgd" | "adamw"), momentum (AdamW: its first beta), weight_decay, no_decay_norm_bias,
            sampled_update ("dense": momentum and decay move centres that are not sampled too).
            With the last, norms' weights and all biases (every parameter of at most one dimension) are not
            decayed; insightface decays everything.
        lr: of the first step.
        rates: of the backbone's parameters, see `fine_tuning.rates_of_layers`. Those of each level are a
            group of their own; its "lr_factor" is what the learning rate is multiplied by. None: one level,
            factor 1.
        fused: one kernel for many parameters, which can be told on the device to skip a step, and copies
            nothing; False: operation by operation.
    Raises:
        ValueError: an unknown optimizer, or nothing that learns.
    """
    param_groups = _groups(cfg, backbone, head, rates or {})
    if not param_groups:
        raise ValueError("freeze leaves nothing that learns, neither in the backbone nor in the head")
    if cfg.optimizer == "sgd":
        optimizer = SGD(param_groups, lr=lr, momentum=cfg.momentum, fused=fused)
    elif cfg.optimizer == "adamw":
        optimizer = AdamW(param_groups, lr=lr, betas=(cfg.momentum, 0.999), fused=fused)
    else:
        allowed = ("sgd", "adamw")
        near = nearest(cfg.optimizer, allowed)
        raise ValueError(f"optimizer {cfg.optimizer!r}: allowed are {allowed}{near}")
    optimizer.moves_every_row = cfg.sampled_update == "dense"
    return optimizer


def _groups(
    cfg, backbone: nn.Module, head: nn.Module, rates: Mapping[nn.Parameter, tuple[int, float]]
) -> list[dict]:
    """The groups of parameters, those that have any; arguments as of `build_optimizer`."""
    kinds = ("backbone", "head", "loss", "no_decay")
    levels = sorted({level for level, _ in rates.values()} | {0})
    names = {(kind, level): f"{kind} {level}" if level else kind for kind in kinds for level in levels}
    groups = {name: [] for name in names.values()}
    factors = dict.fromkeys(groups, 1.0)
    of_loss = set(head.loss.parameters())
    for name, module in (("backbone", backbone), ("head", head)):
        for parameter in module.parameters():
            if parameter.requires_grad:  # insightface freezes the scale of its last BatchNorm
                spared = cfg.no_decay_norm_bias and parameter.ndim <= 1
                kind = "loss" if parameter in of_loss else "no_decay" if spared else name
                level, factor = rates.get(parameter, (0, 1.0))
                group = names[kind, level]
                groups[group].append(parameter)
                factors[group] = factor
    return [
        {
            "name": name,
            "params": parameters,
            "weight_decay": 0.0 if name.split()[0] in ("loss", "no_decay") else cfg.weight_decay,
            "lr_factor": factors[name],
        }
        for name, parameters in groups.items()
        if parameters
    ]


def split_optimizer_state(
    optimizer: torch.optim.Optimizer, sharded_parameters: dict[str, nn.Parameter]
) -> tuple[dict, dict[str, Tensor]]:
    """The optimiser's state as (shared, sharded), for a checkpoint.

    Learning rate, decay and momentum are not part of it: after resuming they are what the config says.

    Args:
        sharded_parameters: name -> a parameter whose rows are this rank's classes. Its state with a row per
            class is the sharded part, as "name.momentum_buffer" and the like.
    """
    state, sharded = optimizer.state_dict()["state"], {}
    for name, parameter in sharded_parameters.items():
        position = _position(optimizer, parameter)
        entries = state.get(position, {})
        rows = {key for key, value in entries.items() if has_rows_of(value, parameter)}
        sharded |= {f"{name}.{key}": entries[key] for key in rows}
        state[position] = {key: value for key, value in entries.items() if key not in rows}
    return {**_layout(optimizer), "state": state}, sharded


def restore_optimizer_state(
    optimizer: torch.optim.Optimizer,
    sharded_parameters: dict[str, nn.Parameter],
    shared: dict,
    sharded: dict[str, Tensor],
) -> None:
    """Put back what `split_optimizer_state` took; `sharded` may hold other tensors too, under other names.

    Raises:
        ValueError: another optimiser, or other groups of parameters.
    """
    for key, ours in _layout(optimizer).items():
        if shared[key] != ours:
            raise ValueError(
                f"the checkpoint's {key}: {shared[key]}, this run's: {ours}; resume with the settings of then"
            )
    state = {position: dict(entries) for position, entries in shared["state"].items()}
    for name, parameter in sharded_parameters.items():
        rows = {key.removeprefix(f"{name}."): v for key, v in sharded.items() if key.startswith(f"{name}.")}
        state.setdefault(_position(optimizer, parameter), {}).update(rows)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """The loss scaler: at work for "fp16", transparent for "bf16" and "fp32".

    An overflow may show on one rank only, in its own class centres. The ranks then agree to skip the step and
    to halve the scale: one float crosses the network per step. Needs the process group.
    """
    if precision != "fp16":
        return torch.amp.GradScaler(device.type, enabled=False)
    # Not at the top: it brings torch's sharded tensors, whose import takes as long as a third of torch's.
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    return ShardedGradScaler(device.type)


def _layout(optimizer: torch.optim.Optimizer) -> dict:
    """What has to be equal in two runs so that the state of one, numbered by position, fits the other."""
    groups = {
        group.get("name", str(i)): len(group["params"]) for i, group in enumerate(optimizer.param_groups)
    }
    return {"optimizer": type(optimizer).__name__, "parameter groups": groups}


def _position(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> int:
    """The number of this parameter in the optimiser's state_dict."""
    parameters = [id(p) for group in optimizer.param_groups for p in group["params"]]
    return parameters.index(id(parameter))
