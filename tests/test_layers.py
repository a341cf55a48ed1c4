"""Layers that are faster on a CPU are still torch's own."""

import pytest
import torch
from torch import nn

from backbones import layers
from backbones.layers import Conv2d, PReLU


@pytest.mark.parametrize("cached_bytes", [1, 1 << 20])  # image by image, and all at once
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_prelu_and_its_gradients_equal_torchs(dtype, layout, cached_bytes, monkeypatch):
    monkeypatch.setattr(layers, "CACHED_BYTES", cached_bytes)
    random = torch.Generator().manual_seed(0)
    values = torch.randn(3, 7, 5, 4, generator=random).to(dtype)
    values[0, :, 0] = 0  # at the kink
    upstream = torch.randn(3, 7, 5, 4, generator=random).to(dtype)
    results = []
    for layer in (nn.PReLU(7), PReLU(7)):
        layer.weight.data = torch.linspace(-1, 2, 7)
        layer.to(dtype)
        x = values.clone(memory_format=layout).requires_grad_()
        output = layer(x)
        output.backward(upstream)
        results.append((output, x.grad, layer.weight.grad))
    tolerance = {torch.bfloat16: 2e-2, torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    for expected, got in zip(*results):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_a_strided_depthwise_convolution_keeps_its_type_and_gains_precision():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 9, 9, generator=random)
    layer = Conv2d(8, 8, 3, stride=2, groups=8, bias=False)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        ours = layer(x.bfloat16())
        theirs = nn.Conv2d.forward(layer, x.bfloat16())
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert (ours - exact).abs().max() <= (theirs - exact).abs().max()


def test_prelu_of_no_image_at_all_has_a_gradient_of_zero():
    layer, x = PReLU(7), torch.zeros(0, 7, 5, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert torch.equal(layer.weight.grad, torch.zeros(7))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_outside_training_prelu_is_torchs_and_can_be_traced():
    layer, x = PReLU(7).eval(), torch.randn(2, 7, 5, 4)
    traced = torch.jit.trace(layer, x)
    assert "prelu" in str(traced.graph)
    assert torch.equal(traced(x), nn.PReLU(7)(x))
    assert torch.equal(layer(x), layer.train()(x))
