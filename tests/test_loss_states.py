"""What losses carry from step to step: running statistics and annealing, by hand, saved, and never NaN."""

import math

import pytest
import torch

from helpers.loss_references import VARIANTS
from losses import build_loss
from losses.quality import FeatureQuality
from partial_fc import PartialFC

ENGINES = ("dense", "stream")
WITH_STATE = [variant for variant in VARIANTS if list(variant.make()[0].buffers())]


def batches(count: int, size: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            (10 * step + 5) * torch.randn(size, 4, generator=generator),
            torch.randint(7, (size,), generator=generator),
        )
        for step in range(count)
    ]


def make_head(variant, engine: str = "stream") -> PartialFC:
    return PartialFC(variant.make()[0], 4, 7, engine=engine, chunk_size=3)


def state_of(head: PartialFC) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in head.loss.state_dict().items()}


def test_the_losses_with_a_state_are_known():
    assert {variant.name for variant in WITH_STATE} == {"sphereface", "curricularface", "adaface"}


@pytest.mark.parametrize("variant", WITH_STATE, ids=str)
def test_a_restored_state_goes_on_with_the_same_loss(variant):
    head, fresh, restored = (make_head(variant) for _ in range(3))
    head.set_progress(400, 2, 20)
    *first, last = batches(4)
    for embeddings, labels in first:
        head(embeddings, labels)
    restored.load_state_dict(head.state_dict())
    assert torch.equal(restored(*last), head(*last))
    assert state_of(restored) == state_of(head)
    assert not torch.allclose(head.eval()(*last), fresh.eval()(*last))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", WITH_STATE, ids=str)
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_batch_that_overflowed_never_leaves_nan_in_a_state(variant, engine, broken):
    head = make_head(variant, engine)
    for embeddings, labels in batches(2):
        head(embeddings, labels)
        embeddings[1, 2] = broken
        head(embeddings, labels)
    for name, value in state_of(head).items():
        assert value.isfinite(), name


@pytest.mark.parametrize("variant", WITH_STATE, ids=str)
def test_states_are_logged(variant):
    head = make_head(variant)
    head(*batches(1)[0])
    for name, value in head.loss.state_dict().items():
        assert torch.equal(head.last_terms[name], value)


# ---- feature quality (AdaFace)


def test_mean_and_deviation_follow_the_batches():
    quality = FeatureQuality(h=0.333, t_alpha=0.1, initial_mean=20, initial_std=100)
    quality.update(torch.tensor([10.0, 30.0, 500.0, 0.0]))  # clipped to 100 and 1e-3
    mean = 140.001 / 4
    deviation = math.sqrt(sum((x - mean) ** 2 for x in (10, 30, 100, 0.001)) / 3)
    assert quality.batch_mean.item() == pytest.approx(0.1 * mean + 0.9 * 20)
    assert quality.batch_std.item() == pytest.approx(0.1 * deviation + 0.9 * 100)


def test_a_batch_of_one_moves_the_mean_and_leaves_the_deviation_alone():
    quality = FeatureQuality(h=0.333, t_alpha=1.0, initial_mean=20, initial_std=7)
    quality.update(torch.tensor([12.0]))
    assert quality.batch_mean == 12
    assert quality.batch_std == 7


def test_equal_norms_are_of_middling_quality():
    quality = FeatureQuality(h=0.333, t_alpha=1.0, initial_mean=20, initial_std=7)
    quality.update(torch.full((5,), 25.0))
    assert quality.batch_std == 0
    assert torch.equal(quality(torch.full((5,), 25.0)), torch.zeros(5))
    assert quality(torch.tensor([0.0, 24.0, 26.0, math.inf])).tolist() == [-1, -1, 1, 1]


def test_quality_gives_no_gradient_to_the_norm():
    norms = torch.tensor([10.0, 30.0], requires_grad=True)
    assert not FeatureQuality(h=0.333, t_alpha=0.01, initial_mean=20, initial_std=10)(norms).requires_grad


def test_adaface_margin_is_arcface_at_low_quality_and_cosface_at_middling():
    cos = torch.linspace(-0.8, 0.8, 9, dtype=torch.float64)
    adaface = build_loss("adaface", h=1.0, initial_mean=20, initial_std=10).double()
    low, middling = (adaface.own_logit(cos, torch.full_like(cos, norm), {}) for norm in (1.0, 20.0))
    arcface, cosface = (
        build_loss(name, m=0.4).own_logit(cos, torch.ones_like(cos), {}) for name in ("arcface", "cosface")
    )
    torch.testing.assert_close(low, arcface)
    torch.testing.assert_close(middling, cosface)


@pytest.mark.parametrize(("cos", "norm"), [(0.97, 100.0), (0.9995, 100.0), (-0.97, 1e-3), (-0.9995, 1e-3)])
def test_adaface_keeps_its_gradient_where_the_angle_is_clipped_if_told_to(cos, norm):
    """The public code has none there: neither easy samples of high quality nor the very hardest move."""
    values, gradients = [], []
    for keep in (False, True):
        own_cos = torch.tensor([cos], requires_grad=True)
        loss = build_loss("adaface", h=1.0, initial_mean=20, initial_std=10, keep_gradient=keep)
        logit = loss.own_logit(own_cos, torch.tensor([norm]), {})
        logit.backward()
        values.append(logit.item())
        gradients.append(own_cos.grad.item())
    assert values[0] == pytest.approx(values[1])
    assert gradients == [0, 64]


def test_adaface_pulls_samples_within_the_public_clamp_of_their_centre():
    own_cos = torch.tensor([0.9995], requires_grad=True)
    build_loss("adaface").own_logit(own_cos, torch.tensor([10.0]), {}).backward()
    assert own_cos.grad > 64


# ---- CurricularFace, SphereFace


def test_t_follows_the_mean_own_cosine():
    loss = build_loss("curricularface", t0=0.2)
    for own_cos in ([0.5, 0.1], [0.9, 0.7]):
        loss.update_state(torch.tensor(own_cos), torch.ones(2))
    assert loss.t.item() == pytest.approx(0.99 * (0.99 * 0.2 + 0.01 * 0.3) + 0.01 * 0.8)


@pytest.mark.parametrize(("step", "weight"), [(0, 1000), (10, 500), (1000, 1000 / 101), (10**6, 5)])
def test_sphereface_margin_sets_in_with_the_steps(step, weight):
    loss = build_loss("sphereface")
    loss.set_progress(step, 0, 20)
    assert loss.cos_weight.item() == pytest.approx(weight)


def test_sphereface_margin_is_psi_once_lambda_is_zero():
    loss = build_loss("sphereface", lambda_start=0, lambda_min=0).double()
    theta = torch.tensor([0.1, 1.0, 2.0, 3.0], dtype=torch.float64)
    signs, offsets = torch.tensor([1, -1, 1, -1]), torch.tensor([0, -2, -4, -6])  # k = 0, 1, 2, 3
    logits = loss.own_logit(theta.cos(), torch.full_like(theta, 7.0), {})
    torch.testing.assert_close(logits, 7 * (signs * (4 * theta).cos() + offsets))
