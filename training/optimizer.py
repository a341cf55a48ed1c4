"""One optimiser for the backbone and the head, and one loss scaler for all ranks.

One optimiser, so that a step happens for both or for neither. At sample_rate < 1 the gradient of the class
centres is sparse over the sampled rows. torch's SGD and AdamW cannot take it with momentum and weight decay;
here they do, and a row that was not sampled keeps its weight and its state bit for bit.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from utils.errors import nearest


class SparseRows:
    """Mix-in before a `torch.optim` class: its own step, applied to the rows that have a gradient.

    A parameter with a sparse gradient is replaced, for the duration of one step, by a dense block of its
    sampled rows with their share of the state: weight decay, momentum and moments are those of the torch
    optimiser. State without rows (AdamW's step count) belongs to the whole parameter: a row that is sampled
    rarely has moments of few steps, but their bias is corrected as for all steps.

    Cost: a copy of the sampled rows and of their state, there and back.
    """

    @torch.no_grad()
    def step(self, closure=None):
        whole = [group["params"] for group in self.param_groups]
        blocks: list[tuple[Tensor, Tensor, Tensor]] = []
        try:
            for group in self.param_groups:
                group["params"] = [self._gather(parameter, blocks) for parameter in group["params"]]
            result = super().step(closure)
        finally:
            for group, parameters in zip(self.param_groups, whole):
                group["params"] = parameters
            states = [self.state.pop(block, {}) for _, _, block in blocks]
        for (parameter, rows, block), state in zip(blocks, states):
            self._scatter(parameter, rows, block, state)
        return result

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


class SGD(SparseRows, torch.optim.SGD):
    """`torch.optim.SGD` that also takes sparse rows, and whose fused form can skip its first step too."""

    def step(self, closure=None):
        for group in self.param_groups:
            if group.get("fused") and group["momentum"]:
                for parameter in group["params"]:
                    # torch would make it without a value, which a first step that is skipped leaves so.
                    if parameter.grad is not None and "momentum_buffer" not in self.state[parameter]:
                        self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return super().step(closure)

    numbers_per_weight = 1  # that it remembers


class AdamW(SparseRows, torch.optim.AdamW):
    """`torch.optim.AdamW` that also takes sparse rows."""

    numbers_per_weight = 2


def has_rows_of(value: object, parameter: Tensor) -> bool:
    """Whether this piece of an optimiser's state holds one row for each row of its parameter."""
    return isinstance(value, Tensor) and value.shape == parameter.shape


def build_optimizer(
    cfg,
    backbone: nn.Module,
    head: nn.Module,
    lr: float,
    fused: bool | None = None,
    rates: Mapping[nn.Parameter, tuple[int, float]] | None = None,
) -> torch.optim.Optimizer:
    """The optimiser of everything that learns, in groups named "backbone", "head", "loss" and "no_decay".

    Parameters of the loss itself (`head.loss`: a bias, a margin) are a group of their own and never decayed.

    Args:
        cfg: optimizer ("sgd" | "adamw"), momentum (AdamW: its first beta), weight_decay, no_decay_norm_bias.
            With the last, norms' weights and all biases (every parameter of at most one dimension) are not
            decayed; insightface decays everything.
        lr: of the first step.
        rates: of the backbone's parameters, see `fine_tuning.rates_of_layers`. Those of each level are a
            group of their own; its "lr_factor" is what the learning rate is multiplied by. None: one level,
            factor 1.
        fused: one kernel for many parameters, which can be told on the device to skip a step. None: where the
            parameters are on a GPU.
    Raises:
        ValueError: an unknown optimizer, or nothing that learns.
    """
    kinds, rates = ("backbone", "head", "loss", "no_decay"), rates or {}
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
    param_groups = [
        {
            "name": name,
            "params": parameters,
            "weight_decay": 0.0 if name.split()[0] in ("loss", "no_decay") else cfg.weight_decay,
            "lr_factor": factors[name],
        }
        for name, parameters in groups.items()
        if parameters
    ]
    if not param_groups:
        raise ValueError("freeze leaves nothing that learns, neither in the backbone nor in the head")
    fused = head.weight.is_cuda if fused is None else fused
    if cfg.optimizer == "sgd":
        return SGD(param_groups, lr=lr, momentum=cfg.momentum, fused=fused)
    if cfg.optimizer == "adamw":
        return AdamW(param_groups, lr=lr, betas=(cfg.momentum, 0.999), fused=fused)
    allowed = ("sgd", "adamw")
    raise ValueError(f"optimizer {cfg.optimizer!r}: allowed are {allowed}{nearest(cfg.optimizer, allowed)}")


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
