"""A checkpoint holds everything that the next step depends on, on any number of ranks."""

import pytest
import torch
from easydict import EasyDict
from torch import nn

from helpers.interface_losses import Compact, RunningNorm
from helpers.ranks import run_ranks
from partial_fc import PartialFC
from utils.distributed import (
    average_buffers,
    data_parallel,
    rank,
    start_process_group,
    stop_process_group,
    world_size,
)
from utils.optimizer import build_optimizer, make_scaler
from utils.training_state import TrainingState, find_checkpoint, saved_batch

SETTINGS = EasyDict(optimizer="sgd", momentum=0.9, weight_decay=5e-4, no_decay_norm_bias=False)
OVERFLOW_AT = 1  # the step that every rank skips


def new_run(seed: int, precision: str = "fp16", **fixed) -> TrainingState:
    """A small run of all that has a state: BatchNorm, loss, regulariser, sampling, momentum, scaler."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    head = PartialFC(RunningNorm(), 8, 11, regularizers=[Compact()], sample_rate=0.5, seed=seed)
    optimizer = build_optimizer(SETTINGS, backbone, head, lr=0.01)
    return TrainingState(backbone, head, optimizer, make_scaler(precision, torch.device("cpu")), **fixed)


def train(run: TrainingState, steps: range) -> TrainingState:
    ddp = data_parallel(run.backbone, torch.device("cpu"))
    for step in steps:
        generator = torch.Generator().manual_seed(100 * step + rank())
        images = torch.randn(6, 6, generator=generator)
        labels = torch.randint(11, (6,), generator=generator)
        loss = run.head(ddp(images), labels) * (torch.inf if step == OVERFLOW_AT else 1)
        run.scaler.scale(loss).backward()
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad()
    average_buffers(run.backbone)
    return run


def contents(run: TrainingState) -> dict:
    """All of its state, flat; the same names on every rank."""
    head = run.head.state_dict()
    momentum = run.optimizer.state[run.head.weight]["momentum_buffer"]
    return {
        **{f"backbone.{name}": value for name, value in run.backbone.state_dict().items()},
        **{f"head.{name}": value for name, value in head.items() if name != "_extra_state"},
        "head.momentum": momentum,
        "head.num_samplings": torch.tensor(head["_extra_state"]["num_samplings"]),
        "scaler": torch.tensor([float(value) for value in run.scaler.state_dict().values()]),
    }


def whole_and_resumed(folder) -> tuple[dict, dict, dict]:
    """The state at the checkpoint, of a run that goes on, and of one that another process would resume."""
    whole = train(new_run(seed=3), range(3))
    whole.save(folder, 3)
    at_checkpoint = {name: value.clone() for name, value in contents(whole).items()}
    whole = contents(train(whole, range(3, 6)))
    resumed = new_run(seed=3)
    resumed.load(folder, 3)
    return at_checkpoint, whole, contents(train(resumed, range(3, 6)))


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("checkpoints")
    return folder, run_ranks(2, whole_and_resumed, folder)


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_a_resumed_run_goes_on_exactly_with_every_state(of_two_ranks):
    for at_checkpoint, whole, resumed in of_two_ranks[1]:
        assert_equal(resumed, whole)
        assert at_checkpoint["scaler"][0] == 2.0**15  # the overflow is remembered
        assert at_checkpoint["head.num_samplings"] == 3
        assert not any(torch.equal(whole[name], at_checkpoint[name]) for name in whole)


def test_states_of_the_loss_are_equal_on_every_rank(of_two_ranks):
    (_, first, _), (_, second, _) = of_two_ranks[1]
    for name in ("head.loss.mean", "head.regularizers.0.steps", "scaler", "backbone.1.running_mean"):
        assert torch.equal(first[name], second[name]), name


def test_one_rank_resumes_what_two_have_saved(of_two_ranks):
    folder, ((first, _, _), (second, _, _)) = of_two_ranks
    start_process_group()
    try:
        assert world_size() == 1
        run = new_run(seed=8)
        run.load(folder, 3)
        run.scaler.scale(torch.ones(()))  # puts its state in place, as the first step does
        loaded = contents(run)
    finally:
        stop_process_group()
    sharded = {"head.weight", "head.momentum"}
    assert_equal(
        loaded,
        {name: torch.cat([first[name], second[name]]) if name in sharded else first[name] for name in first},
    )


def test_a_checkpoint_tells_its_global_batch_and_the_settings_behind_it(tmp_path, alone):
    new_run(1, per_rank=dict(batch_size=3, gradient_acc=2), global_batch=12, loss="arcface").save(tmp_path, 2)
    assert saved_batch(tmp_path, 2) == dict(global_batch=12, batch_size=3, gradient_acc=2)
    with pytest.raises(FileNotFoundError, match="step_00000004"):
        saved_batch(tmp_path, 4)


def test_resuming_needs_a_checkpoint_and_starting_refuses_one(tmp_path):
    assert find_checkpoint(tmp_path, resume=False) == 0
    with pytest.raises(FileNotFoundError, match=r"resume=true, but there is no checkpoint in .*output="):
        find_checkpoint(tmp_path, resume=True)
    (tmp_path / "step_00000007").mkdir()
    assert find_checkpoint(tmp_path, resume=True) == 7
    with pytest.raises(ValueError, match=r"checkpoint of step 7: go on from it with resume=true"):
        find_checkpoint(tmp_path, resume=False)


@pytest.fixture
def alone():
    start_process_group()
    yield
    stop_process_group()


@pytest.mark.parametrize(("before", "after"), [("fp32", "fp16"), ("fp16", "fp32"), ("fp16", "fp16")])
def test_a_run_may_go_on_in_another_precision(tmp_path, alone, before, after):
    train(new_run(1, before), range(2, 4)).save(tmp_path, 2)
    resumed = new_run(2, after)
    resumed.load(tmp_path, 2)
    train(resumed, range(4, 6))
    assert all(parameter.isfinite().all() for parameter in resumed.backbone.parameters())


def test_a_run_that_divides_its_epochs_otherwise_cannot_go_on(tmp_path, alone):
    train(new_run(1, global_batch=8, loss="arcface"), range(2, 4)).save(tmp_path, 2)
    new_run(2, global_batch=8, loss="arcface").load(tmp_path, 2)
    with pytest.raises(
        ValueError, match=r"is of a run with global_batch 8, this one has 4: step 2 would not"
    ):
        new_run(2, global_batch=4, loss="arcface").load(tmp_path, 2)
    with pytest.raises(ValueError, match="is of a run with loss arcface, this one has cosface"):
        new_run(2, global_batch=8, loss="cosface").load(tmp_path, 2)
