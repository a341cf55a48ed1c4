"""A loss as one sample meets it: its own class, one other class and its norm; what pictures are drawn of.

All numbers are asked of the loss objects, through the interface that PartialFC uses, so that every loss of
the registry can be drawn. Angles are in radians, numbers in float64. With one other class the sum and the
maximum of a row statistic are both the term itself.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from losses import LOSSES, MarginLoss, build_loss
from utils.errors import nearest
from utils.typed_values import read_literal

LATE = 10**6  # steps: annealing has ended
SETTLING = 1500  # batches; moving averages with a share of .01 are within 3e-7 of what they move to


@dataclass(frozen=True)
class Stage:
    """Where in training a loss is looked at: the statistics of the batches of late.

    Attributes:
        norm_mean, norm_std: of the feature norms.
        mean_cos: mean cosine of samples with their own class.
    """

    norm_mean: float = 55.0
    norm_std: float = 15.0
    mean_cos: float = 0.5


@dataclass(frozen=True)
class Choice:
    """A loss to draw: its name and the settings that are not its defaults."""

    name: str
    hyper: dict = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> "Choice":
        """Of `name` or `name:setting=value:setting=value`; checked, as `build_loss` does."""
        name, *settings = text.split(":")
        hyper = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals:
                raise ValueError(f"{text!r}: {setting!r} is no setting=value")
            hyper[key] = read_literal(value)
        build_loss(name, **hyper)
        return cls(name, hyper)

    def __str__(self) -> str:
        return ", ".join([self.name, *(f"{key}={value}" for key, value in self.hyper.items())])

    def movable(self) -> list[str]:
        """Names of its numbers: settings, and running values such as CurricularFace's t."""
        settings = inspect.signature(LOSSES[self.name]).parameters.values()
        numbers = [setting.name for setting in settings if isinstance(setting.default, float)]
        return numbers + list(build_loss(self.name, **self.hyper).terms())

    def build(self, stage: Stage, moved: str | None = None, value: float = 0.0) -> MarginLoss:
        """The loss at that stage, in float64; the number `moved`, if it has it, is `value`."""
        hyper = dict(self.hyper)
        if moved in inspect.signature(LOSSES[self.name]).parameters:
            hyper[moved] = value
        loss = settle(build_loss(self.name, **hyper).double(), stage)
        if moved in loss.terms():
            loss.get_buffer(moved).fill_(value)
        return loss


def check_movable(quantity: str, choices: Sequence[Choice]) -> None:
    """Raise ValueError unless `quantity` is "norm" or a number of one of the losses."""
    names = {"norm", *(name for choice in choices for name in choice.movable())}
    if quantity not in names:
        known = ", ".join(sorted(names))
        raise ValueError(
            f"none of these losses has a number {quantity!r}{nearest(quantity, names)} (there are: {known})"
        )


def settle(loss: MarginLoss, stage: Stage) -> MarginLoss:
    """The same loss after a long training on batches with the statistics of `stage`."""
    loss.set_progress(LATE, 1, 1)
    if any(True for _ in loss.buffers()):
        offset = stage.norm_std / 2**0.5  # the unbiased deviation of ±offset is norm_std
        norms = torch.tensor([stage.norm_mean - offset, stage.norm_mean + offset], dtype=torch.float64)
        for _ in range(SETTLING):
            loss.update_state(torch.full_like(norms, stage.mean_cos), norms)
    return loss


def logits(loss: MarginLoss, own_cos: Tensor, other_cos: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the own and of the other class, for two cosines and a norm that broadcast together."""
    own_cos, other_cos, norm = torch.broadcast_tensors(own_cos, other_cos, norm)
    shape, length = own_cos.shape, norm.reshape(-1)
    factor = 1 if loss.normalize else length
    own_cos, cos = own_cos.reshape(-1) * factor, (other_cos.reshape(-1) * factor)[:, None]  # (B,), (B, 1)
    with torch.no_grad():
        statistics = loss.row_statistics(cos, own_cos[:, None], length[:, None])
    row = {name: term.to(cos.dtype) for name, (term, _) in statistics.items()}  # (B, 1)
    own = loss.own_logit(own_cos, length, {name: term[:, 0] for name, term in row.items()})
    other = loss.other_logits(cos, own_cos[:, None], length[:, None], row)
    return own.reshape(shape), other.reshape(shape)


def advantage(loss: MarginLoss, own_angle: Tensor, other_angle: Tensor, norm: Tensor) -> Tensor:
    """Own logit less other logit: 0 on the decision boundary, positive where the own class wins."""
    own, other = logits(loss, own_angle.cos(), other_angle.cos(), norm)
    return (own - other).detach()


def target_logit(loss: MarginLoss, angle: Tensor, other_angle: float, norm: float) -> tuple[Tensor, Tensor]:
    """Logit of the own class, and its gradient with respect to the cosine; both in `unit`s of the loss."""
    cos = angle.cos().requires_grad_()
    other_cos, length = torch.tensor([math.cos(other_angle), norm], dtype=torch.float64)
    own, _ = logits(loss, cos, other_cos, length)
    (slope,) = torch.autograd.grad(own.sum(), cos)
    return own.detach() / unit(loss, norm), slope / unit(loss, norm)


def gradient_scale(loss: MarginLoss, angle: Tensor, other_angle: Tensor, norm: Tensor) -> Tensor:
    """|∂loss/∂cos θ| in `unit`s of the loss: AdaFace's gradient scaling term, |p_own − 1|·∂f/∂cos θ."""
    angle, other_angle, norm = torch.broadcast_tensors(angle, other_angle, norm)
    cos = angle.cos().requires_grad_()
    own, other = logits(loss, cos, other_angle.cos(), norm)
    per_sample = loss.per_sample(own.reshape(-1), other.reshape(-1), norm.reshape(-1))
    (gradient,) = torch.autograd.grad(per_sample.sum(), cos)
    return gradient.abs() / unit(loss, norm)


def unit(loss: MarginLoss, norm: float | Tensor) -> float | Tensor:
    """What a logit is a multiple of: the scale; times the norm, where all logits are proportional to it."""
    cos = torch.linspace(-1, 1, 11, dtype=torch.float64)
    once, twice = (logits(loss, cos, cos, torch.tensor(n, dtype=torch.float64))[0] for n in (1.0, 2.0))
    return loss.scale * (norm if torch.allclose(twice, 2 * once) else 1.0)
