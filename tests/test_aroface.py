"""ARoFace: the recorded warp, and the ascent on the loss."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.aroface_cases import SIDE, batch, make_backbone, make_head, perturb, record_parameters
from losses import build_loss
from losses.aroface import LIMITS, aroface_matrix, aroface_warp, generator_of_rank, gradient_sign
from partial_fc import PartialFC

GOLDEN = Path(__file__).parent / "goldens" / "aroface_warp.npz"


# ---- the warp


def test_matrix_warp_and_gradients_equal_the_recorded_ones():
    recorded = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN).items()}
    scale, theta, translation = (recorded[k].clone().requires_grad_() for k in ("scale", "theta", "t"))
    matrix = aroface_matrix(scale, theta, translation)
    warped = aroface_warp(recorded["image"], matrix, exact_identity=False)
    loss = F.cross_entropy(warped.flatten(1) @ recorded["linear"], recorded["label"])
    loss.backward()
    got = {"matrix": matrix, "warped": warped, "loss": loss.double()}
    got |= {"grad_scale": scale.grad, "grad_theta": theta.grad, "grad_t": translation.grad}
    for name, value in got.items():
        torch.testing.assert_close(value, recorded[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("size", [(112, 112), (9, 14)])
def test_the_identity_leaves_an_image_as_it_is_and_shrinks_it_in_the_original_s_way(size):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    matrix = aroface_matrix(torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(2, 2))
    torch.testing.assert_close(aroface_warp(images, matrix), images, rtol=0, atol=1e-4)
    shrunk = aroface_warp(images, matrix, exact_identity=False)
    assert (shrunk - images).abs().max() > 0.05


def test_what_comes_from_outside_the_image_is_black():
    images = torch.ones(1, 3, SIDE, SIDE)
    shifted = aroface_warp(
        images, aroface_matrix(torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([[0.5, 0.0]]))
    )
    quarter = SIDE // 4
    assert (shifted[..., -quarter + 1 :] == -1).all()
    torch.testing.assert_close(shifted[..., : -quarter - 1], images[..., : -quarter - 1])


def test_scale_rotation_and_shift_do_what_their_names_say():
    images = -torch.ones(1, 3, 21, 21)
    images[..., 10, 15] = 1.0  # right of the centre
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)

    def brightest(scale, theta, x=0.0):
        warped = aroface_warp(images, aroface_matrix(scale, theta, torch.tensor([[x, 0.0]])))
        return divmod(int(warped[0, 0].flatten().argmax()), 21)

    assert brightest(one, zero) == (10, 15)
    assert brightest(0.5 * one, zero) == (10, 20)
    assert brightest(one, zero + math.pi / 2) == (5, 10)
    assert brightest(one, zero, x=2 * 3 / 21) == (10, 12)


# ---- the ascent


def test_each_parameter_takes_a_step_in_the_direction_in_which_the_loss_rises(monkeypatch):
    backbone, head = make_backbone(normalize=False).double(), make_head().double()
    images, labels = batch(6)
    images = images.double()
    steps = record_parameters(monkeypatch)
    perturb(
        images, labels, backbone=backbone, head=head, ratio=0.0, eta_scale=0.02, eta_theta=0.01, eta_t=0.015
    )
    start, end = steps[0], steps[-1]
    torch.manual_seed(5)
    order = torch.randperm(6, generator=generator_of_rank())  # the first that is drawn
    images, labels = images[order], labels[order]

    def loss(parameters: Tensor) -> Tensor:
        with torch.no_grad(), head.only_input_gradient():
            matrix = aroface_matrix(*parameters.split([1, 1, 2], 1))
            return head(backbone(aroface_warp(images, matrix)), labels)

    for i, j in np.ndindex(6, 4):
        nudge = torch.zeros(6, 4, dtype=torch.float64)
        nudge[i, j] = 1e-6
        slope = (loss(start + nudge) - loss(start - nudge)).item()
        assert math.copysign(1, end[i, j] - start[i, j]) == math.copysign(1, slope)
    moved = (end - start).abs()
    eta = torch.tensor([0.02, 0.01, 0.015, 0.015], dtype=torch.float64)
    assert (moved - eta).abs().max() < 0.005
    torch.testing.assert_close(moved, moved[:1].expand(6, 4))  # one step size for the whole batch


def test_the_loss_rises_the_more_the_more_steps_there_are():
    backbone, head = make_backbone(normalize=False), make_head()
    images, labels = batch(64)
    losses = []
    for hyper in (
        {"ratio": 1.0},
        {"eta_scale": 0.02, "eta_theta": 0.02, "eta_t": 0.02},
        {"eta_scale": 0.02, "eta_theta": 0.02, "eta_t": 0.02, "steps": 4},
    ):
        warped, same = perturb(images, labels, backbone=backbone, head=head, **{"ratio": 0.0, **hyper})
        losses.append(head(backbone(warped), same).item())
    assert losses[0] < losses[1] < losses[2]


def test_no_parameter_climbs_further_than_its_limit(monkeypatch):
    steps = record_parameters(monkeypatch)
    perturb(*batch(8), ratio=0.0, eta_scale=0.2, eta_theta=0.5, eta_t=0.25, steps=9)
    climbed = (steps[-1] - steps[0]).abs()
    assert (climbed <= torch.tensor(LIMITS) + 1e-4).all()
    assert (climbed > 0.9 * torch.tensor(LIMITS)).any(0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e30])
def test_the_direction_is_right_in_half_precision_however_small_or_large_the_loss(scale):
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(5, 4, generator=generator).requires_grad_()
    matrix, target = torch.randn(4, 8, generator=generator), torch.randn(5, 8, generator=generator)
    embeddings = (parameters.half() @ matrix.half()).float()
    sign = gradient_sign(embeddings, lambda e: scale * (e * target).sum(), parameters)
    assert torch.equal(sign, (target @ matrix.T).sign())


def test_the_direction_of_an_easy_sample_survives_beside_a_hard_one_in_half_precision():
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(5, 4, generator=generator).requires_grad_()
    matrix, target = torch.randn(4, 8, generator=generator), torch.randn(5, 8, generator=generator)
    target *= torch.tensor([1, 1, 1e-8, 1, 1e-8])[:, None]
    embeddings = (parameters.half() @ matrix.half()).float()
    sign = gradient_sign(embeddings, lambda e: (e * target).sum(), parameters)
    assert torch.equal(sign, (target @ matrix.T).sign())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_every_parameter_moves(monkeypatch, dtype):
    steps = record_parameters(monkeypatch)
    # The scale makes gradients that half precision would round to 0.
    backbone, head = make_backbone(normalize=False), PartialFC(build_loss("normface", s=1e-9), 8, 10)
    images, labels = batch(8)
    with torch.autocast("cpu", dtype):
        warped, _ = perturb(images, labels, backbone=backbone, head=head, ratio=0.0)
    assert warped.dtype == torch.float32
    assert ((steps[-1] - steps[0]).abs() > 0.09).all()


def test_a_gradient_of_zero_leaves_an_image_where_it_started():
    parameters = torch.ones(2, 4, requires_grad=True)
    assert torch.equal(gradient_sign(parameters * 1.0, lambda e: 0 * e.sum(), parameters), torch.zeros(2, 4))
