"""A step that is not finite changes nothing, on any rank; why it was so is found and said."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.ranks import run_ranks
from losses import build_loss, build_regularizer
from partial_fc import PartialFC
from ranks.data_parallel import data_parallel
from ranks.sync_batch_norm import convert_sync_batch_norm
from training.diagnosis import explain_skips, find_cause
from training.optimizer import build_optimizer, make_scaler
from training.step_guard import StepGuard
from utils.buffers import FlatBuffers
from utils.distributed import rank, world_size

CPU = torch.device("cpu")
REGULARIZERS = (("ndr", {"ramp": None, "min_k": -1.0}), ("center", {}), ("disc", {}))
KINDS = ("loss", "backbone", "centres", "sampled centres", "parameter of the loss", "infinite")


def settings(**changed) -> SimpleNamespace:
    defaults = dict(
        optimizer="sgd", momentum=0.9, weight_decay=0.1, no_decay_norm_bias=False, sampled_update="sparse"
    )
    return SimpleNamespace(**defaults | dict(grad_clip=1.0, max_skipped_steps=3) | changed)


class Training:
    """A small network with BatchNorm, and a head with all that has a state."""

    def __init__(self, loss: str = "curricularface", precision: str = "fp32", fused: bool = False, **changed):
        cfg = settings(**changed)
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
        regularizers = [build_regularizer(name, **hyper) for name, hyper in REGULARIZERS]
        rate = 0.5 if changed.get("momentum") == 0.5 else 1.0
        self.head = PartialFC(
            build_loss(loss), 8, 21, chunk_size=4, regularizers=regularizers, sample_rate=rate
        )
        self.ddp = data_parallel(self.backbone, CPU) if torch.distributed.is_initialized() else self.backbone
        self.optimizer = build_optimizer(cfg, self.backbone, self.head, lr=0.1, fused=fused)
        self.scaler = make_scaler(precision, CPU)
        self.guard = StepGuard(self.backbone, self.head, self.optimizer, self.scaler, cfg, steps=range(20))

    def step(self, step: int, break_gradient=None, break_loss: float | None = None) -> None:
        generator = torch.Generator().manual_seed(100 * step + rank())
        images = torch.randn(6, 3, 2, 2, generator=generator)
        labels = torch.randint(21, (6,), generator=generator)
        self.head.set_progress(step, 0, 1)
        self.guard.begin()
        loss = self.head(self.ddp(images), labels)
        self.scaler.scale(loss).backward()
        if break_gradient is not None:
            break_gradient(self)
        self.guard.add(loss if break_loss is None else loss * break_loss)
        self.guard.end()

    def state(self) -> dict[str, torch.Tensor]:
        found = {f"backbone.{n}": t.clone() for n, t in self.backbone.state_dict().items()}
        state = {n: t for n, t in self.head.state_dict().items() if isinstance(t, torch.Tensor)}
        found |= {f"head.{n}": t.clone() for n, t in state.items()}
        for i, entries in self.optimizer.state_dict()["state"].items():
            found |= {f"{i}.{n}": torch.as_tensor(v).clone() for n, v in entries.items() if v is not None}
        return found


def breaker(kind: str):
    """Puts NaN or inf where the kind says, on the last rank alone."""

    def spoil(training: Training) -> None:
        if rank() != world_size() - 1:
            return
        if kind == "backbone":
            training.backbone[1].weight.grad[3, 2] = math.nan
        elif kind == "infinite":
            training.backbone[3].bias.grad[1] = math.inf
        elif kind == "parameter of the loss":
            training.head.loss.bias.grad.fill_(math.nan)
        elif kind == "sampled centres":
            training.head.weight.grad._values()[0, 0] = math.nan
        elif kind == "centres":
            training.head.weight.grad[-1, 0] = math.nan

    return spoil


def broken_step(kind: str, fused: bool, optimizer: str) -> None:
    loss = "uniface" if kind == "parameter of the loss" else "curricularface"
    momentum = 0.5 if kind == "sampled centres" else 0.9
    training = Training(loss, fused=fused, optimizer=optimizer, momentum=momentum)
    first = kind == "infinite"  # of the run: the optimiser has no state yet
    if not first:
        training.step(0)
    before = training.state()
    is_last = rank() == world_size() - 1
    training.step(1, breaker(kind), math.nan if kind == "loss" and is_last else None)
    after = training.state()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert all(value.isfinite().all() for value in after.values())
    assert training.guard.num_skipped == training.guard.in_a_row == 1
    training.step(2)
    assert training.guard.num_skipped == 1
    assert training.guard.in_a_row == 0
    moved = training.state()
    assert not torch.equal(moved["backbone.1.weight"], before["backbone.1.weight"])
    assert not torch.equal(moved["backbone.2.running_mean"], before["backbone.2.running_mean"])
    assert not torch.equal(moved["head.regularizers.1.class_rows"], before["head.regularizers.1.class_rows"])
    assert all(value.isfinite().all() for value in moved.values())
    numbers = training.guard.numbers()
    assert math.isfinite(numbers["loss"])
    assert numbers["skipped"] == 1


def all_broken_steps() -> None:
    torch.use_deterministic_algorithms(True)
    for kind in KINDS:
        for fused in (False, True):
            for optimizer in ("sgd", "adamw"):
                try:
                    broken_step(kind, fused, optimizer)
                except AssertionError as error:
                    raise AssertionError(f"{kind}, fused={fused}, {optimizer}: {error}") from error


@pytest.mark.parametrize("world", [1, 2])
def test_a_step_that_is_not_finite_on_one_rank_changes_nothing_on_any(world):
    run_ranks(world, all_broken_steps)


def test_a_guarded_step_is_a_plain_step():
    guarded, plain = Training(), Training()
    for step in range(3):
        guarded.step(step)
        generator = torch.Generator().manual_seed(100 * step)
        images = torch.randn(6, 3, 2, 2, generator=generator)
        labels = torch.randint(21, (6,), generator=generator)
        plain.head.set_progress(step, 0, 1)
        plain.head(plain.backbone(images), labels).backward()
        nn.utils.clip_grad_norm_(plain.backbone.parameters(), 1.0)
        plain.optimizer.step()
        plain.optimizer.zero_grad()
    for name, value in plain.state().items():
        assert torch.equal(guarded.state()[name], value), name


def steps_in_float16() -> None:
    training = Training(precision="fp16")
    training.step(0)
    scale, before = training.scaler.get_scale(), training.state()
    training.step(1, break_loss=math.inf if rank() == 1 else None)
    assert training.scaler.get_scale() == scale / 2
    assert all(torch.equal(value, before[name]) for name, value in training.state().items())
    training.step(2)
    assert not torch.equal(training.state()["backbone.1.weight"], before["backbone.1.weight"])


def test_float16_halves_the_scale_of_a_skipped_step_also_where_the_loss_alone_is_not_finite():
    run_ranks(2, steps_in_float16)


def test_the_mean_loss_leaves_out_what_was_skipped():
    training = Training()
    for step in range(4):
        training.step(step, break_loss=math.nan if step == 2 else None)
    assert math.isfinite(training.guard.numbers()["loss"])
    training.step(4, break_loss=math.nan)
    assert math.isnan(training.guard.numbers()["loss"])


def test_too_many_skipped_steps_in_a_row_stop_the_run():
    training = Training()
    for step in range(3):
        training.step(step, break_loss=math.nan)
    training.guard.stop_if_stuck(str)
    training.step(3, break_loss=math.nan)
    with pytest.raises(ValueError, match=r"^step 4: 4 steps in a row .*max_skipped_steps=3\): why"):
        training.guard.stop_if_stuck(lambda: "why")
    training.step(4)
    training.guard.stop_if_stuck(str)


@pytest.mark.parametrize(("skipped", "stops"), [(2, True), (1, False)])
def test_a_run_whose_second_half_was_skipped_does_not_end_well(skipped, stops):
    training = Training(max_skipped_steps=100)
    training.guard.num_steps = training.guard.steps_left = 3
    for step in range(3):
        training.step(step, break_loss=math.nan if step >= 3 - skipped else None)
    if stops:
        with pytest.raises(ValueError, match="2 steps in a row"):
            training.guard.stop_if_stuck(str)
    else:
        training.guard.stop_if_stuck(str)


def test_a_save_that_is_due_waits_for_a_step_that_is_not_skipped():
    training, saves = Training(), []
    for step, (loss, due) in enumerate(
        [(0, False), (math.nan, True), (math.nan, False), (0, False), (0, False)]
    ):
        training.step(step, break_loss=loss or None)
        saves.append(training.guard.is_time_to_save(due))
    assert saves == [False, False, False, True, False]


def test_a_run_that_goes_on_counts_on():
    """A run that is preempted again and again is stopped like one that is not."""
    before = Training()
    for step in range(3):
        before.step(step, break_loss=math.nan)
    after = Training()
    after.guard.load_state_dict(before.guard.state_dict())
    after.guard.steps_left = 17
    after.step(3, break_loss=math.nan)
    with pytest.raises(ValueError, match="step 4: 4 steps in a row"):
        after.guard.stop_if_stuck(str)
    assert after.guard.numbers()["skipped"] == 4


def test_one_bad_step_at_the_end_does_not_end_a_run_that_was_resumed_before_it():
    training = Training(max_skipped_steps=100)
    training.guard.num_steps, training.guard.steps_left = 5, 1
    training.step(4, break_loss=math.nan)
    training.guard.stop_if_stuck(str)
    assert training.guard.numbers()["skipped"] == 1


class NoWaiting(TorchDispatchMode):
    """Raises where an operator would wait for a GPU, or hand a number or a count to the host."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "_coalesce", "is_nonzero", "item"), name
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("momentum", [0.9, 0.5])  # all classes; half of them, with a sparse gradient
def test_the_verdict_on_a_step_waits_for_no_gpu(momentum):
    training = Training(fused=True, momentum=momentum)
    training.step(0)
    training.guard.begin()
    loss = training.head(training.backbone(torch.randn(6, 3, 2, 2)), torch.arange(6))
    loss.backward()
    training.guard.add(loss)
    if momentum == 0.5:
        training.guard._update = lambda skipped: None  # the sampled rows' own sort is the optimiser's
    with NoWaiting():
        training.guard.end()
    assert training.guard.numbers()["skipped"] == 0


def test_flat_buffers_are_the_same_tensors_with_the_same_values():
    module = nn.Sequential(nn.BatchNorm2d(5), nn.BatchNorm1d(3))
    module[0].running_mean.normal_()
    tensors, values = list(module.buffers()), [buffer.clone() for buffer in module.buffers()]
    flat = FlatBuffers(module)
    assert all(a is b for a, b in zip(module.buffers(), tensors))
    assert all(torch.equal(a, b) for a, b in zip(module.buffers(), values))
    module[0](torch.randn(4, 5, 2, 2))
    flat.put_back(torch.zeros(()))
    assert module[0].num_batches_tracked == 1
    flat.put_back(torch.ones(()))
    assert all(torch.equal(a, b) for a, b in zip(module.buffers(), values))


class OwnTensor(nn.Module):
    """Moves its statistics on by tensors of their own, not in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, value: float) -> None:
        self.mean = 0.5 * self.mean + value


def test_flat_buffers_put_back_what_a_module_has_replaced():
    module = OwnTensor()
    flat = FlatBuffers(module)
    for value, skipped, mean in ((1.0, 0.0, 1.0), (math.nan, 1.0, 1.0), (2.0, 0.0, 2.5)):
        flat.remember()
        module(value)
        flat.put_back(torch.tensor(skipped))
        assert torch.equal(module.mean, torch.full((3,), mean))
        assert torch.equal(module.state_dict()["mean"], module.mean)


# ---- the cause


def cause(break_it=None, images=None) -> str | None:
    training = Training()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, 2, 2, generator=generator) if images is None else images
    if break_it is not None:
        break_it(training)
    before = training.state()
    found, gradient = find_cause(training.backbone, training.head, images, torch.arange(6), "fp32")
    assert gradient.shape == (6, 8)
    for name, value in training.state().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    return None if found is None else found.what


def test_the_first_thing_that_is_not_finite_is_found():
    images = torch.ones(6, 3, 2, 2)
    images[[1, 4], 0] = math.nan
    assert cause() is None
    assert cause(images=images) == "images [1, 4] of the batch are not finite"

    def weight(training):
        training.backbone[3].weight.data[0, 0] = math.inf

    assert cause(weight) == "3.weight itself is not finite"

    def overflow(training):
        training.backbone[1].weight.data.fill_(3e38)

    assert cause(overflow) == "the output of layer 1 is the first that is not finite"

    def term(training):
        training.head.loss.per_sample = lambda own, others, norms: own * math.inf

    assert cause(term) == "the term ce of the loss is not finite"

    def gradient(training):
        training.backbone[2].register_full_backward_hook(
            lambda _, grad_in, grad_out: (grad_in[0] * math.nan,)
        )

    assert cause(gradient) == "the gradient of 1.bias is the first that is not finite"

    def norm(training):
        training.backbone[2].register_full_backward_hook(
            lambda _, grad_in, grad_out: (torch.full_like(grad_in[0], 1e25),)
        )

    assert cause(norm) == "the norm of the gradient is too large for float32"


def test_a_cause_is_found_where_the_whole_backbone_is_frozen():
    def freeze(training):
        training.backbone.requires_grad_(False)
        training.head.loss.per_sample = lambda own, others, norms: own * math.inf

    assert cause(freeze) == "the term ce of the loss is not finite"


def explained(folder) -> str:
    training = Training()
    images = torch.ones(6, 3, 2, 2)
    if rank() == 1:
        images[2, 0] = math.nan
    names = [f"train.rec: record {10 * rank() + i}" for i in range(6)]
    batch = images, torch.arange(6), names
    return explain_skips(7, (training.backbone, training.head), batch, "fp32", folder)


def test_every_rank_says_which_rank_has_the_cause_and_where_its_batch_is(tmp_path):
    first, second = run_ranks(2, explained, tmp_path)
    assert first == second
    assert first.startswith("on rank 1 images [2] of the batch are not finite; look at these records")
    assert "record 10, train.rec: record 11" in first
    file = tmp_path / "skipped_step_7_rank_1.pt"
    assert str(file) in first
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    saved = torch.load(file, weights_only=True)
    assert saved["images"][2, 0].isnan().all()
    assert saved["names"][2] == "train.rec: record 12"


def test_in_float16_the_scale_of_the_loss_is_named_where_the_batch_is_finite_without(tmp_path):
    training = Training(precision="fp16")
    batch = torch.ones(6, 3, 2, 2), torch.arange(6), []
    networks = training.backbone, training.head
    assert "the scale is still too large" in explain_skips(3, networks, batch, "fp16", tmp_path)
    assert "Something random" in explain_skips(3, networks, batch, "fp32", tmp_path)


def test_a_layer_that_does_not_learn_in_the_step_is_not_its_cause(tmp_path):
    """In the warm-up of the head the backbone runs in evaluation mode and without gradients."""
    training = Training()
    training.backbone[2].register_full_backward_hook(lambda _, grad_in, grad_out: (grad_in[0] * math.nan,))
    images = torch.ones(6, 3, 2, 2)  # equal rows: their variance is 0, the running one is 1
    batch = images, torch.arange(6), []
    given = training.backbone, training.head, *batch[:2], "fp32"
    assert "the gradient of 1.bias" in find_cause(*given)[0].what
    training.backbone.eval()
    with torch.no_grad():
        assert find_cause(*given)[0] is None
        training.head.loss.per_sample = lambda own, others, norms: own * math.inf
        explain_skips(7, given[:2], batch, "fp32", tmp_path)
    saved = torch.load(tmp_path / "skipped_step_7_rank_0.pt", weights_only=True)
    assert (saved["resting"], saved["learning"]) == (["", "0", "1", "2", "3"], [])


def explained_with_synchronised_norms(folder) -> str:
    training = Training()
    convert_sync_batch_norm(training.backbone)
    if rank() == 1:
        training.backbone[3].register_full_backward_hook(
            lambda _, grad_in, grad_out: (grad_in[0] * math.nan,)
        )
    batch = torch.ones(6, 3, 2, 2), torch.arange(6), []
    return explain_skips(7, (training.backbone, training.head), batch, "fp32", folder)


def test_the_rank_with_the_cause_is_named_also_where_batch_norm_spreads_it(tmp_path):
    first, second = run_ranks(2, explained_with_synchronised_norms, tmp_path)
    assert first == second
    assert first.startswith("on rank 1 the gradient of 2.bias is the first that is not finite")
