"""The sum of exponentials over the other classes, with and without the largest logit taken off."""

import pytest
import torch

from classifier import step_loss
from losses import build_loss
from partial_fc import PartialFC

D, CLASSES = 16, 40


def results(embeddings: torch.Tensor, centres: torch.Tensor, dtype: torch.dtype, scale: float, **how) -> list:
    """Loss, gradient of the embeddings, gradient of the centres."""
    head = PartialFC(build_loss("cosface", s=scale), D, CLASSES, chunk_size=7, **how).to(dtype)
    with torch.no_grad():
        head.weight.copy_(centres)
    given = embeddings.to(dtype, copy=True).requires_grad_()
    loss = head(given, torch.arange(len(embeddings)))
    loss.backward()
    return [loss.detach(), given.grad, head.weight.grad]


@pytest.mark.parametrize("cosine", [-1, 1], ids=["opposite", "same"])
@pytest.mark.parametrize("batch", [3, 30], ids=["kept", "computed_again"])
def test_logits_at_the_ends_of_their_range_lose_no_digits(cosine, batch):
    random = torch.Generator().manual_seed(1)
    one = torch.randn(D, generator=random)
    embeddings = one + 0.02 * torch.randn(batch, D, generator=random)
    centres = cosine * one + 0.02 * torch.randn(CLASSES, D, generator=random)
    assert build_loss("cosface").scale == step_loss.MAX_SCALE
    got = results(embeddings, centres, torch.float32, 64.0)
    expected = results(embeddings, centres, torch.float64, 64.0, engine="dense")
    # float32 itself: a logit of 64 is off by 4e-6, a difference of two by twice that.
    for a, b in zip(got, expected):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize("batch", [3, 30])
def test_the_largest_logit_is_taken_off_where_the_scale_asks_for_it_and_changes_nothing(monkeypatch, batch):
    random = torch.Generator().manual_seed(2)
    embeddings, centres = torch.randn(batch, D, generator=random), torch.randn(CLASSES, D, generator=random)
    without = results(embeddings, centres, torch.float64, 64.0)
    monkeypatch.setattr(step_loss, "MAX_SCALE", 1.0)
    for a, b in zip(without, results(embeddings, centres, torch.float64, 64.0)):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("scale", [65.0, 300.0])
def test_a_scale_that_overflows_exp_gives_what_dense_gives(scale):
    random = torch.Generator().manual_seed(3)
    centres = torch.randn(CLASSES, D, generator=random)
    embeddings = centres[1:4] + 0.1 * torch.randn(3, D, generator=random)  # each close to another class
    got = results(embeddings, centres, torch.float32, scale)
    for a, b in zip(got, results(embeddings, centres, torch.float64, scale, engine="dense")):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
