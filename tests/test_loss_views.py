"""The numbers that pictures of losses show are those of the losses: logits, boundaries, gradients."""

import math

import pytest
import torch

from helpers.interface_losses import Drawing, HardNegatives, Learning, MovedByOwn, PairSimilarity
from helpers.loss_references import VARIANTS
from losses import LOSSES, MarginLoss, build_loss
from partial_fc import PartialFC
from tools.helpers.loss_views import (
    Choice,
    TrainingStatistics,
    advantage,
    gradient_scale,
    late_in_training,
    logits,
    mean_draws,
    target_logit,
)

STATISTICS = TrainingStatistics()
NORM = torch.tensor(20.0, dtype=torch.float64)
TO_COME = (Drawing, HardNegatives, Learning, MovedByOwn, PairSimilarity)  # not in the registry


def angles(count: int = 400, seed: int = 0, most: float = math.pi) -> torch.Tensor:
    """`(2, count)`: own angle, other angle."""
    return most * torch.rand(2, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def direction(*radians: float) -> torch.Tensor:
    """`(n, 2)` unit vectors in the plane."""
    angle = torch.tensor(radians, dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], 1)


def late(name: str, **hyper):
    return Choice(name, hyper).build(STATISTICS)


def draws_means(loss: MarginLoss) -> MarginLoss:
    """The same loss, with the mean in place of each random draw."""
    means = mean_draws(loss)
    loss.draw = lambda _, size: {
        name: torch.full((size,), mean, dtype=torch.float64) for name, mean in means.items()
    }
    return loss


@pytest.mark.parametrize("loss", [*LOSSES.values(), *TO_COME])
def test_two_logits_make_the_loss_of_the_classifier(loss):
    """A sample in the plane of two class centres: own angle from the first, other angle from the second."""
    loss = draws_means(late_in_training(loss().double(), STATISTICS))
    for own, other in angles(6, seed=1).T.tolist():
        head = PartialFC(loss, 2, 2, engine="dense").double().eval()
        between = own + other
        head.weight.data = direction(0, between)
        embedding = NORM * direction(own)
        own_cos, other_cos = torch.tensor([[own], [other]], dtype=torch.float64).cos()
        own_logit, other_logit = logits(loss, own_cos, other_cos, NORM)
        seen = loss.per_sample(own_logit, other_logit, NORM[None]).mean()
        torch.testing.assert_close(seen, head(embedding, torch.tensor([0])), rtol=1e-9, atol=1e-12)


def cosface(own, other):
    return own.cos() - 0.4 - other.cos()


def arcface(own, other):
    return other - own - 0.5


def mv_softmax(own, other):
    margined = own.cos() - 0.35
    hard = other.cos() > margined
    return torch.where(own.cos() > 0.35, margined, own.cos()) - torch.where(
        hard, 1.12 * other.cos() + 0.12, other.cos()
    )


def curricularface(own, other):
    """t = 0.5, the mean own cosine."""
    margined = (own + 0.5).cos()
    return margined - torch.where(other.cos() > margined, other.cos() * (0.5 + other.cos()), other.cos())


def npcface(own, other):
    hard = other.cos() > (own + 0.4).cos()
    margined = (own + 0.4 + 0.2 * torch.where(hard, other.cos(), 0)).cos()
    return torch.where(own.cos() > 0, margined, own.cos()) - torch.where(
        hard, 1.1 * other.cos() + 0.25, other.cos()
    )


def circle(own, other):
    """Its boundary is the circle (cos θ₂)² + (1 − cos θ₁)² = 2m²; where cos θ₂ < −m its weight is 0."""
    beyond = torch.where(other.cos() < -0.25, 0.25**2, other.cos() ** 2)
    return 2 * 0.25**2 - beyond - (1 - own.cos()) ** 2


def magface(own, other):
    """Norm 20 of 10 to 110, margin .45 to .8."""
    return other - own - (0.45 + 0.35 * 10 / 100)


def adaface(own, other):
    """Norm 20 in batches of 55 ± 15."""
    k = 0.333 * (20 - 55) / 15.001
    return (own - 0.4 * k).cos() - 0.4 * (1 + k) - other.cos()


def uniface(own, other):
    """b = log(10·C) for 10,000 classes; the own class has to be found and the other one rejected."""
    b = math.log(10 * 10_000)
    return torch.minimum(64 * (own.cos() - 0.4) - b, b - 64 * other.cos())


BOUNDARIES = {
    "softmax": lambda own, other: other - own,
    "normface": lambda own, other: other - own,
    "cosface": cosface,
    "arcface": arcface,
    "mv_softmax": mv_softmax,
    "curricularface": curricularface,
    "npcface": npcface,
    "circle": circle,
    "adaface": adaface,
    "magface": magface,
    "uniface": uniface,
}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_the_boundary_lies_where_the_paper_has_it(name):
    own, other = angles(5000, most=2.2)
    expected = BOUNDARIES[name](own, other)
    clear = expected.abs() > 1e-6
    lead = advantage(late(name), own, other, NORM)
    assert torch.equal(lead[clear] > 0, expected[clear] > 0)
    assert 0.05 < (expected > 0).double().mean() < 0.6


def test_statistics_are_those_of_late_training():
    adaface = late("adaface")
    assert adaface.quality.batch_mean.item() == pytest.approx(55, rel=1e-4)
    assert adaface.quality.batch_std.item() == pytest.approx(15, rel=1e-4)
    assert late("curricularface").t.item() == pytest.approx(0.5, rel=1e-4)
    assert late("sphereface").cos_weight == 5


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.derivative and not v.steps_down], ids=str)
def test_the_gradient_drawn_is_the_slope_of_the_logit_drawn(variant):
    loss = late(variant.name, **variant.hyper)
    cos = torch.linspace(-0.6, 0.95, 300, dtype=torch.float64)
    logit, slope = target_logit(loss, cos.arccos(), 1.0, 20.0)
    finite_difference = torch.gradient(logit, spacing=(cos,))[0]
    assert (finite_difference - slope)[2:-2].abs().median() < 1e-3


def test_a_published_gradient_that_is_no_derivative_is_drawn_as_published():
    angle = torch.linspace(0.1, 3, 50, dtype=torch.float64)
    _, slope = target_logit(late("arcface", gradient="straight_through"), angle, 1.0, 20.0)
    torch.testing.assert_close(slope, torch.ones_like(slope))
    _, slope = target_logit(late("circle"), angle, 1.0, 20.0)
    torch.testing.assert_close(slope, 1.25 - angle.cos())


@pytest.mark.parametrize("name", ["softmax", "sphereface"])
def test_logits_proportional_to_the_norm_are_shown_without_it(name):
    curves = [target_logit(late(name), angles(9)[0], 1.0, norm) for norm in (1.0, 30.0)]
    torch.testing.assert_close(curves[0], curves[1])
    assert curves[0][0].abs().max() < 2.1


def test_gradient_scale_is_that_of_the_adaface_paper():
    """|p_own − 1|·∂f(cos θ)/∂cos θ, with f = cos(θ + m): ArcFace's."""
    own, other = angles(500, most=1.5)
    p_own = torch.sigmoid(64 * ((own + 0.5).cos() - other.cos()))
    expected = (1 - p_own) * (own + 0.5).sin() / own.sin()
    torch.testing.assert_close(gradient_scale(late("arcface"), own, other, NORM), expected)


def test_a_choice_is_read_with_its_settings():
    assert (
        repr(Choice.read("combined:margin_list=(1,0.3,0.1):s=32").hyper)
        == "{'margin_list': [1, 0.3, 0.1], 's': 32}"
    )
    assert str(Choice.read("arcface:m=0.3")) == "arcface, m=0.3"
    assert repr(Choice.read("magface:u_a=90").build(STATISTICS)) == repr(build_loss("magface", u_a=90))
