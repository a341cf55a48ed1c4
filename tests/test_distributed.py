"""The collectives, their gradients, and the helper that starts ranks."""

import multiprocessing
import os
import time
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from helpers.ranks import run_ranks
from utils.distributed import (
    CopyToShards,
    GatherRows,
    SumOverShards,
    all_gather_rows,
    all_max,
    average_buffers,
    barrier,
    gather_labels,
    rank,
    row_counts,
    start_process_group,
    stop_process_group,
    world_size,
)


def own_rows(count: int) -> torch.Tensor:
    return torch.arange(2.0 * count).view(count, 2) + 100 * rank()


def collectives() -> dict:
    """What each rank sees; rank r brings r rows, so rank 0 brings none."""
    rows = own_rows(rank()).requires_grad_()
    gathered = GatherRows.apply(rows, row_counts(len(rows)))
    (gathered * torch.arange(len(gathered))[:, None]).sum().backward()

    whole = torch.ones(3, requires_grad=True)
    inside = CopyToShards.apply(whole) * (rank() + 1)  # each shard's own work on the same tensor
    outside = SumOverShards.apply(inside)
    outside.sum().backward()

    model = nn.BatchNorm1d(2)
    model.running_mean.fill_(rank())
    model.running_var.fill_(10 * rank())
    average_buffers(model)
    return {
        "rank": (rank(), world_size()),
        "gathered": gathered.detach(),
        "plain": all_gather_rows(own_rows(rank())),
        "labels": all_gather_rows(torch.full((rank(),), rank())),
        "labels with their number": [gather_labels(torch.full((rank(),), rank()), n) for n in range(4)],
        "scalars": all_gather_rows(torch.full((2, 0), 1.0)).shape,
        "nothing": all_gather_rows(torch.zeros(0, 4)).shape,
        "rows_grad": rows.grad,
        "outside": outside.detach(),
        "whole_grad": whole.grad,
        "max": all_max(torch.tensor([float(rank()), -float(rank())])),
        "buffers": (model.running_mean, model.running_var, model.num_batches_tracked),
        "left_alone": own_rows(2),
    }


@pytest.fixture(scope="module")
def by_rank() -> list[dict]:
    return run_ranks(3, collectives)


def test_ranks_are_numbered_without_local_rank(by_rank):
    assert [result["rank"] for result in by_rank] == [(0, 3), (1, 3), (2, 3)]


def test_uneven_rows_are_gathered_in_rank_order_on_every_rank(by_rank):
    expected = torch.tensor([[100.0, 101], [200, 201], [202, 203]])
    for result in by_rank:
        torch.testing.assert_close(result["gathered"], expected)
        torch.testing.assert_close(result["plain"], expected)
        assert result["labels"].tolist() == [1, 2, 2]
        assert result["scalars"] == (6, 0)
        assert result["nothing"] == (0, 4)


def test_labels_arrive_in_rank_order_whether_or_not_there_is_room_beside_their_number(by_rank):
    for seen in by_rank:
        for counts, labels in seen["labels with their number"]:
            assert counts == list(range(len(by_rank)))
            assert torch.equal(labels, seen["labels"])


def test_gather_returns_to_each_rank_its_own_gradient_times_the_world_size(by_rank):
    expected = [torch.zeros(0, 2), torch.tensor([[0.0, 0]]), torch.tensor([[3.0, 3], [6, 6]])]
    for result, gradient in zip(by_rank, expected):
        torch.testing.assert_close(result["rows_grad"], gradient)


def test_shards_sum_going_out_and_their_gradients_sum_coming_back(by_rank):
    for result in by_rank:
        torch.testing.assert_close(result["outside"], torch.full((3,), 6.0))
        torch.testing.assert_close(result["whole_grad"], torch.full((3,), 6.0))
        assert result["max"].tolist() == [2, 0]


def test_every_rank_ends_with_the_mean_of_the_running_statistics(by_rank):
    for result in by_rank:
        mean, var, batches = result["buffers"]
        assert mean.tolist() == [1, 1]
        assert var.tolist() == [10, 10]
        assert batches == 0


def test_helpers_see_a_world_of_one_without_a_group():
    rows = torch.ones(2, 3)
    barrier()
    assert (rank(), world_size(), row_counts(2)) == (0, 1, [2])
    assert all_gather_rows(rows) is rows
    model = nn.BatchNorm1d(2)
    average_buffers(model)
    assert model.running_var.tolist() == [1, 1]


def test_outside_torchrun_the_group_is_a_world_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    try:
        assert start_process_group().type == "cpu"
        assert torch.distributed.is_initialized()
        assert (rank(), world_size()) == (0, 1)
    finally:
        stop_process_group()
    assert not torch.distributed.is_initialized()
    stop_process_group()  # a second time is no error


def test_more_ranks_than_gpus_is_an_error_with_the_way_out(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"2 GPU.*rank 3.*nproc_per_node"):
        start_process_group()


@pytest.mark.parametrize(("launched_by_torchrun", "place"), [(False, 0), (True, None)])
def test_a_task_that_sees_one_gpu_takes_it_unless_torchrun_shows_the_same_to_all(
    launched_by_torchrun, place, monkeypatch
):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launched_by_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **options: None)
    with pytest.raises(ValueError, match=r"1 GPU.*rank 3") if launched_by_torchrun else nullcontext():
        start_process_group()
    assert [device.index for device in taken] == ([] if launched_by_torchrun else [place])


def fail_on_rank_1() -> None:
    if rank() == 1:
        raise RuntimeError("rank 1 has had enough")
    barrier()  # which rank 1 never joins


def die_on_rank_1() -> None:
    if rank() == 1:
        os._exit(3)
    barrier()


def hang() -> None:
    time.sleep(60)


def test_a_failing_rank_is_reported_with_its_own_words():
    with pytest.raises(AssertionError, match="rank 1 has had enough"):
        run_ranks(2, fail_on_rank_1, timeout=60)


@pytest.mark.parametrize(
    ("function", "timeout", "message"), [(die_on_rank_1, 60, "rank 1 of 2: died"), (hang, 1, "did not")]
)
def test_dead_or_hanging_ranks_end_within_the_time_limit_and_leave_no_process(function, timeout, message):
    before = set(multiprocessing.active_children())  # loaders of other tests may be waiting for the collector
    with pytest.raises(AssertionError, match=message):
        run_ranks(2, function, timeout=timeout)
    assert set(multiprocessing.active_children()) <= before
