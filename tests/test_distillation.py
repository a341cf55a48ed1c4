"""The distance to the teacher's features: its formula, its gradient on several ranks, the student's view."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.ranks import run_ranks
from losses import build_distillation
from ranks.data_parallel import data_parallel
from utils.distributed import rank


class Teacher(nn.Module):
    """A fixed map of images of any size to 5 numbers; colours matter."""

    def __init__(self, input_order: str = "RGB"):
        super().__init__()
        self.input_order = input_order

    def forward(self, images):
        weight = torch.arange(15, dtype=images.dtype).view(3, 5).sin()
        return images.mean((2, 3)) @ weight


def batch(size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return torch.rand(size, 3, 112, 112, generator=random) * 2 - 1, torch.randn(size, 5, generator=random)


def test_the_term_is_the_mean_of_one_minus_cosine_times_its_weight():
    images, embeddings = batch()
    distill = build_distillation(Teacher(), "RGB", weight=3.0)
    target = Teacher()(images).double().numpy()
    student = embeddings.double().numpy()
    cosines = (target * student).sum(1) / np.linalg.norm(target, axis=1) / np.linalg.norm(student, axis=1)
    assert distill(embeddings, images).item() == pytest.approx(3 * (1 - cosines).mean(), rel=1e-5)
    assert distill.last_terms["distillation"].item() == pytest.approx((1 - cosines).mean(), rel=1e-5)


def test_a_perfect_student_has_no_distance_and_no_gradient():
    images, _ = batch()
    embeddings = (4 * Teacher()(images)).requires_grad_()
    loss = build_distillation(Teacher(), "RGB")(embeddings, images)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert embeddings.grad.abs().max() < 1e-4 / embeddings.norm(dim=1).min()


def test_a_teacher_of_the_other_colour_order_sees_the_channels_turned():
    images, embeddings = batch()
    plain = build_distillation(Teacher("BGR"), "RGB")(embeddings, images)
    turned = build_distillation(Teacher("RGB"), "RGB")(embeddings, images.flip(1))
    assert torch.equal(plain, turned)
    assert torch.equal(build_distillation(Teacher("BGR"), "BGR")(embeddings, images.flip(1)), plain)


def test_without_a_teacher_nothing_is_added_or_changed():
    images, embeddings = batch()
    distill = build_distillation(None, "RGB")
    assert distill.view(images) is images
    assert distill(embeddings, images) == 0.0
    assert distill.last_terms == {}


# ---------------------------------------------------------------- ranks

SHARES = {0: slice(0, 1), 1: slice(1, 6)}  # of 6 images


def student() -> nn.Linear:
    torch.manual_seed(4)
    return nn.Linear(3, 5)


def gradient(images: torch.Tensor, wrap=lambda network: network) -> tuple[float, np.ndarray]:
    network = student()
    distill = build_distillation(Teacher(), "RGB", weight=2.0)
    wrapped = wrap(network)  # has to live until the gradients are reduced
    loss = distill(wrapped(images.mean((2, 3))), images)
    loss.backward()
    return loss.item(), network.weight.grad.numpy()


def on_rank() -> tuple[float, np.ndarray]:
    return gradient(batch()[0][SHARES[rank()]], lambda network: data_parallel(network, torch.device("cpu")))


def test_ranks_of_unequal_shares_have_the_loss_and_the_gradient_of_one_rank():
    loss, expected = gradient(batch()[0])
    for of_rank, found in run_ranks(2, on_rank):
        assert of_rank == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


# ---------------------------------------------------------------- low resolution


def test_the_student_sees_a_share_of_the_images_small_and_the_others_as_they_are():
    images, _ = batch(40)
    distill = build_distillation(Teacher(), "RGB", low_res=0.5, sides=[16, 56])
    torch.manual_seed(1)
    view = distill.view(images)
    changed = [not torch.equal(a, b) for a, b in zip(images, view)]
    assert 10 <= sum(changed) <= 30
    assert view.abs().max() <= 1
    # Noise averaged over blocks of 7 and of 2 pixels a side has a seventh and half of its spread.
    spread = view.std((1, 2, 3)) / images.std((1, 2, 3))
    kinds = {bool(s < 0.25) for s, c in zip(spread, changed) if c}
    assert kinds == {True, False}
    assert all(s < 0.7 for s, c in zip(spread, changed) if c)
    torch.manual_seed(1)
    assert torch.equal(distill.view(images), view)


def test_the_images_that_the_teacher_sees_stay_whole():
    images, _ = batch()
    before = images.clone()
    distill = build_distillation(Teacher(), "RGB", low_res=1.0)
    distill.view(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0.0}, "distillation: weight=0.0 is out of range"),
        ({"low_res": 1.5}, r"distillation: low_res=1.5 is out of range: it has to be in \[0, 1\]"),
        ({"sides": []}, "sides"),
        ({"sides": [112]}, "sides"),
        ({"wait": 1.0}, "distillation has no setting 'wait'; did you mean 'weight'"),
        ({"weight": "1"}, "weight='1' is of the wrong type"),
    ],
)
def test_a_mistake_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        build_distillation(Teacher(), "RGB", **settings)
