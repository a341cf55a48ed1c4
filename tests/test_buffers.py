"""Buffers are put aside, exchanged and put back, whatever happens in between."""

import pytest
import torch
from torch import nn

from backbones.batch_norm import FrozenBatchStatistics
from utils.buffers import saved_buffers, with_buffers


def make_network() -> nn.Module:
    """Buffers at two depths, and a BatchNorm whose buffers are None."""
    return nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(2)), without_statistics())


def without_statistics() -> nn.Module:
    return nn.BatchNorm1d(2, track_running_stats=False)


def test_saved_buffers_do_not_follow_the_module():
    network = make_network()
    saved = saved_buffers(network)
    network(torch.randn(8, 2))
    assert [len(own) for own in saved] == [0, 3, 0, 3, 0]  # the modules in the order of network.modules()
    assert torch.equal(saved[3]["running_mean"], torch.zeros(2))
    assert not torch.equal(network[1][0].running_mean, torch.zeros(2))


def test_the_module_has_the_saved_buffers_inside_and_then_the_very_same_as_before():
    network = make_network()
    saved = saved_buffers(network)
    network(torch.randn(8, 2))
    own, values = list(network.buffers()), [buffer.clone() for buffer in network.buffers()]
    with with_buffers(network, saved):
        assert all(
            inside is buffer
            for inside, buffer in zip(network.buffers(), [b for d in saved for b in d.values()])
        )
        network(torch.randn(8, 2))
    assert all(after is before for after, before in zip(network.buffers(), own))
    assert all(torch.equal(after, before) for after, before in zip(network.buffers(), values))
    assert saved[1]["num_batches_tracked"] == 1


def test_buffers_are_put_back_after_an_error_too():
    network = make_network()
    own = list(network.buffers())
    with pytest.raises(KeyError), with_buffers(network, saved_buffers(network)):
        raise KeyError
    assert all(after is before for after, before in zip(network.buffers(), own))


def test_frozen_statistics_leave_other_buffers_alone_and_can_be_entered_again():
    network = make_network()
    network.register_buffer("count", torch.zeros(()))
    frozen, reference = FrozenBatchStatistics(network), make_network()
    images = torch.randn(8, 2)
    for _ in range(2):
        with frozen:
            assert torch.equal(network(images), reference(images))
            network.count += 1
    assert network.count == 2
    assert network[0].num_batches_tracked == network[1][0].num_batches_tracked == 0
    assert torch.equal(network[0].running_mean, torch.zeros(2))
