"""A checkpoint holds everything that the next step depends on, on any number of ranks."""

import pytest
import torch
from easydict import EasyDict
from torch import nn

from dataset import SyntheticDataset
from helpers.interface_losses import INTERFACE_VARIANTS, Compact, Learning, RunningNorm
from helpers.job_files import load
from helpers.loss_references import VARIANTS
from helpers.ranks import run_ranks
from losses import REGULARIZERS, build_loss, build_regularizer
from partial_fc import PartialFC
from ranks.data_parallel import data_parallel
from training.identity import RunIdentity
from training.lr_scheduler import Schedule
from training.optimizer import build_optimizer, make_scaler
from training.training_state import TrainingState, find_checkpoint, saved_batch
from utils.distributed import average_buffers, rank, start_process_group, stop_process_group, world_size

SETTINGS = EasyDict(
    optimizer="sgd", momentum=0.9, weight_decay=5e-4, no_decay_norm_bias=False, sampled_update="sparse"
)
OVERFLOW_AT = 1  # the step that every rank skips


def new_run(seed: int, precision: str = "fp16", identity: RunIdentity | None = None) -> TrainingState:
    """A small run of all that has a state: BatchNorm, loss, regulariser, sampling, momentum, scaler."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    head = PartialFC(RunningNorm(), 8, 11, regularizers=[Compact()], sample_rate=0.5, seed=seed)
    optimizer = build_optimizer(SETTINGS, backbone, head, lr=0.01)
    return TrainingState(backbone, head, optimizer, make_scaler(precision, torch.device("cpu")), identity)


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


def test_a_model_without_checkpoints_is_not_replaced(tmp_path):
    (tmp_path / "model.pt").touch()
    with pytest.raises(ValueError, match=r"model\.pt is of an earlier run, which this one would replace"):
        find_checkpoint(tmp_path / "checkpoints", resume=False)
    assert find_checkpoint(tmp_path / "checkpoints", resume="auto") == 0


def test_resuming_needs_a_checkpoint_and_starting_refuses_one(tmp_path):
    assert find_checkpoint(tmp_path, resume=False) == 0
    with pytest.raises(FileNotFoundError, match=r"resume=true, but there is no checkpoint in .*output="):
        find_checkpoint(tmp_path, resume=True)
    (tmp_path / "step_00000007").mkdir()
    assert find_checkpoint(tmp_path, resume=True) == 7
    with pytest.raises(ValueError, match=r"checkpoint of step 7: go on from it with resume=true"):
        find_checkpoint(tmp_path, resume=False)


def found_by_each_rank(folder) -> tuple[int, str]:
    """What a rank starts from whose machine does not list rank 0's checkpoint yet, and why it would fail."""
    own = folder / f"of_rank_{rank()}"
    found = find_checkpoint(own, resume="auto")
    try:
        find_checkpoint(own, resume=False)
    except ValueError as error:
        return found, str(error)
    return found, ""


def test_rank_0_finds_the_checkpoint_for_all(tmp_path):
    (tmp_path / "of_rank_0" / "step_00000007").mkdir(parents=True)
    for found, error in run_ranks(2, found_by_each_rank, tmp_path):
        assert found == 7
        assert "holds a checkpoint of step 7" in error


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


def identified_run(seed: int, *overrides: str) -> TrainingState:
    cfg = load("rec=synthetic", "num_classes=11", "num_image=100", "num_steps=9", *overrides)
    global_batch = cfg.batch_size * cfg.gradient_acc
    schedule = Schedule(cfg, 100 // cfg.batch_size, global_batch)
    return new_run(seed, identity=RunIdentity(cfg, SyntheticDataset(11, 100), schedule, global_batch))


def test_a_checkpoint_tells_its_global_batch_and_the_settings_behind_it(tmp_path, alone):
    identified_run(1, "batch_size=3", "gradient_acc=4").save(tmp_path, 2)
    assert saved_batch(tmp_path, 2) == dict(global_batch=12, batch_size=3, gradient_acc=4)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 4"):
        saved_batch(tmp_path, 4)
    shared = tmp_path / "step_00000002" / "shared.pt"
    shared.write_bytes(shared.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"shared\.pt is damaged: its checksum .*; no checkpoint before"):
        saved_batch(tmp_path, 2)


def test_a_run_that_divides_its_epochs_otherwise_cannot_go_on(tmp_path, alone):
    train(identified_run(1, "batch_size=8"), range(2, 4)).save(tmp_path, 2)
    identified_run(2, "batch_size=8").load(tmp_path, 2)
    with pytest.raises(
        ValueError, match=r"is of a run with global_batch 8, this one has 4: step 2 would not"
    ):
        identified_run(2, "batch_size=4").load(tmp_path, 2)
    with pytest.raises(ValueError, match="is of a run with loss arcface, this one has cosface"):
        identified_run(2, "batch_size=8", "loss=cosface").load(tmp_path, 2)


# ---------------------------------------------------------------- what ranks hold alike


def small_run(loss, optimizer: str = "sgd", regularizers=(), sample_rate: float = 0.5) -> TrainingState:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    head = PartialFC(loss, 8, 11, regularizers=regularizers, sample_rate=sample_rate)
    head.set_progress(2, 1, 3)  # ndr wants to know
    optimizer = build_optimizer(EasyDict({**SETTINGS, "optimizer": optimizer}), backbone, head, lr=0.01)
    return TrainingState(backbone, head, optimizer, make_scaler("fp32", torch.device("cpu")))


def told(run: TrainingState) -> str:
    try:
        run.check_ranks(2)
    except ValueError as error:
        return str(error)
    return "equal"


def damage(run: TrainingState, name: str) -> str:
    """What is told after a last digit of one number on rank 1 has changed; it is put back."""
    tensor = run._replicated()[name].view(-1)
    before = tensor[:1].clone()
    with torch.no_grad():
        if rank() == 1:
            is_float = tensor.is_floating_point()
            tensor[:1] = torch.nextafter(before, before + 1) if is_float else before + 1
        found = told(run)
        tensor[:1] = before
    return found


def ranks_of_every_loss() -> tuple[dict, dict]:
    """What is told of each loss after two steps, and of each tensor of one that keeps all kinds of state."""
    runs = {}
    for variant in (*VARIANTS, *INTERFACE_VARIANTS):
        runs[f"{variant} sgd"] = small_run(variant.make()[0])
    for name in REGULARIZERS:
        runs[name] = small_run(build_loss("adaface"), "adamw", (build_regularizer(name),), 1.0)
    all_kinds = runs["all"] = small_run(Learning(), "adamw", (Compact(), build_regularizer("ndr")))
    fine = {name: told(train(run, range(2, 4))) for name, run in runs.items()}
    return fine, {name: damage(all_kinds, name) for name in all_kinds._replicated()}


def test_what_is_not_sharded_is_equal_on_every_rank_bit_for_bit_and_a_changed_bit_is_named():
    for fine, damaged in run_ranks(2, ranks_of_every_loss, timeout=200):
        assert set(fine.values()) == {"equal"}, fine
        assert len(fine) > 30
        kinds = "backbone.0.weight head.loss.margin head.regularizers.0.steps"
        kinds += " exp_avg_sq of backbone.0.weight step of head.loss.margin"
        assert all(kind in " ".join(damaged) for kind in kinds.split()), damaged.keys()
        for name, line in damaged.items():
            assert line.startswith(f"rank 1 has {name} "), (name, line)
            assert "after step 2 the ranks have to hold the same numbers" in line
        of_classes = {
            name for name in damaged if name.endswith((".weight", "class_rows")) and "head." in name
        }
        assert of_classes == {"step of head.weight"}  # that of AdamW; what has a row a class is sharded
