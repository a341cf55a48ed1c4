"""A loss as one sample meets it: its own class, one other class and its norm. Pictures show these numbers.

All numbers come from the loss objects, through the interface that PartialFC uses, so every loss of the
registry can be drawn. Angles are in radians, numbers in float64. With one other class, the sum and the
maximum of a row statistic are both the term itself. Running statistics are those of a long training,
learnable parameters have their initial values, and random draws have their mean.
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

LATE_STEP = 10**6  # by then annealing has ended
NUM_CLASSES = 10_000  # of the training set; some losses take the initial value of a parameter from it
NUM_DRAWS = 10_000  # random draws, of which pictures show the mean
NUM_BATCHES = 1500  # a moving average with a share of 0.01 is then within 3e-7 of its limit


@dataclass(frozen=True)
class TrainingStatistics:
    """The statistics of all recent batches, at the time of training when a loss is drawn.

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
        """From `name` or `name:setting=value:setting=value`; raises ValueError as `build_loss` does."""
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
        """The names of its numbers: settings, and running values such as CurricularFace's t."""
        settings = inspect.signature(LOSSES[self.name]).parameters.values()
        numbers = [setting.name for setting in settings if isinstance(setting.default, float)]
        return numbers + list(build_loss(self.name, **self.hyper).terms())

    def build(
        self, statistics: TrainingStatistics, moved: str | None = None, value: float = 0.0
    ) -> MarginLoss:
        """The loss late in training, in float64. If it has a number `moved`, that number is `value`."""
        hyper = dict(self.hyper)
        if moved in inspect.signature(LOSSES[self.name]).parameters:
            hyper[moved] = value
        loss = late_in_training(build_loss(self.name, **hyper).double(), statistics)
        state = dict([*loss.named_buffers(), *loss.named_parameters()])
        if moved in state:
            state[moved].data.fill_(value)
        return loss


def check_movable(quantity: str, choices: Sequence[Choice]) -> None:
    """Raise ValueError unless `quantity` is "norm" or a number of one of the losses."""
    names = {"norm", *(name for choice in choices for name in choice.movable())}
    if quantity not in names:
        known = ", ".join(sorted(names))
        raise ValueError(
            f"none of these losses has a number {quantity!r}{nearest(quantity, names)} (there are: {known})"
        )


def late_in_training(loss: MarginLoss, statistics: TrainingStatistics) -> MarginLoss:
    """The same loss after a long training on batches with these statistics."""
    loss.prepare(NUM_CLASSES)
    loss.set_progress(LATE_STEP, 1, 1)
    offset = statistics.norm_std / 2**0.5  # mean ± offset are two norms with the unbiased deviation norm_std
    norms = torch.tensor([statistics.norm_mean - offset, statistics.norm_mean + offset], dtype=torch.float64)
    own_cos = torch.full_like(norms, statistics.mean_cos)
    for _ in range(NUM_BATCHES):
        loss.update_state(own_cos, norms)
    return loss


def mean_draws(loss: MarginLoss) -> dict[str, float]:
    """The mean of each number that the loss draws at random, by name."""
    draws = loss.draw(torch.Generator().manual_seed(0), NUM_DRAWS)
    return {name: values.double().mean().item() for name, values in draws.items()}


def logits(loss: MarginLoss, own_cos: Tensor, other_cos: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the own and of the other class, for two cosines and a norm that broadcast together."""
    own_cos, other_cos, norm = torch.broadcast_tensors(own_cos, other_cos, norm)
    shape, length = own_cos.shape, norm.reshape(-1)
    factor = 1 if loss.normalize else length
    own_cos, cos = own_cos.reshape(-1) * factor, (other_cos.reshape(-1) * factor)[:, None]  # (B,), (B, 1)
    statistics = {name: torch.full_like(cos, mean) for name, mean in mean_draws(loss).items()}  # (B, 1)
    with torch.no_grad():
        terms = loss.row_statistics(cos, own_cos[:, None], length[:, None])
    statistics |= {name: term.to(cos.dtype) for name, (term, _) in terms.items()}
    own = loss.own_logit(own_cos, length, {name: values[:, 0] for name, values in statistics.items()})
    other = loss.other_logits(cos, own_cos[:, None], length[:, None], statistics)
    return own.reshape(shape), other.reshape(shape)


def advantage(loss: MarginLoss, own_angle: Tensor, other_angle: Tensor, norm: Tensor) -> Tensor:
    """0 on the decision boundary, positive where the own class wins; mostly own logit minus other logit."""
    own, other = logits(loss, own_angle.cos(), other_angle.cos(), norm)
    return loss.advantage(own, other).detach()


def target_logit(loss: MarginLoss, angle: Tensor, other_angle: float, norm: float) -> tuple[Tensor, Tensor]:
    """Logit of the own class and its gradient with respect to the cosine, both divided by `logit_unit`."""
    cos = angle.cos().requires_grad_()
    other_cos, length = torch.tensor([math.cos(other_angle), norm], dtype=torch.float64)
    own, _ = logits(loss, cos, other_cos, length)
    (slope,) = torch.autograd.grad(own.sum(), cos)
    unit = logit_unit(loss, norm)
    return own.detach() / unit, slope / unit


def gradient_scale(loss: MarginLoss, angle: Tensor, other_angle: Tensor, norm: Tensor) -> Tensor:
    """|∂loss/∂cos θ| divided by `logit_unit`. AdaFace's paper calls |p_own − 1|·∂f/∂cos θ that."""
    angle, other_angle, norm = torch.broadcast_tensors(angle, other_angle, norm)
    cos = angle.cos().requires_grad_()
    own, other = logits(loss, cos, other_angle.cos(), norm)
    per_sample = loss.per_sample(own.reshape(-1), other.reshape(-1), norm.reshape(-1))
    (gradient,) = torch.autograd.grad(per_sample.sum(), cos)
    return gradient.abs() / logit_unit(loss, norm)


def logit_unit(loss: MarginLoss, norm: float | Tensor) -> float | Tensor:
    """The scale of the logits; times the norm, where all logits are proportional to the norm."""
    cos = torch.linspace(-1, 1, 11, dtype=torch.float64)
    once, twice = (logits(loss, cos, cos, torch.tensor(n, dtype=torch.float64))[0] for n in (1.0, 2.0))
    return loss.scale * (norm if torch.allclose(twice, 2 * once) else 1.0)
