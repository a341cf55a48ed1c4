"""Rows without a gradient stay as they are, rows with one move as torch's own optimiser would move them."""

import copy

import pytest
import torch
import torch.distributed as dist
from easydict import EasyDict
from torch import nn

from helpers.ranks import run_ranks
from losses import build_loss
from partial_fc import PartialFC
from training.optimizer import SGD, AdamW, build_optimizer, make_scaler
from utils.distributed import rank, world_size

NUM_ROWS, WIDTH = 7, 3
SPARSE = {
    "sgd": lambda parameters, **kw: SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.05, **kw),
    "adamw": lambda parameters, **kw: AdamW(parameters, lr=0.1, weight_decay=0.05, **kw),
}
DENSE = {
    "sgd": lambda parameters, **kw: torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, weight_decay=0.05, **kw
    ),
    "adamw": lambda parameters, **kw: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.05, **kw),
}
both = pytest.mark.parametrize("kind", list(SPARSE))


def centres(seed=0, num_rows=NUM_ROWS):
    return nn.Parameter(torch.randn(num_rows, WIDTH, generator=torch.Generator().manual_seed(seed)))


def sparse(rows, seed, num_rows=NUM_ROWS):
    """A random sparse gradient over `rows`."""
    values = torch.randn(len(rows), WIDTH, generator=torch.Generator().manual_seed(seed))
    indices = torch.tensor(rows, dtype=torch.int64)[None]
    return torch.sparse_coo_tensor(indices, values, (num_rows, WIDTH), check_invariants=True)


def row_state(optimizer, parameter):
    state = {k: v for k, v in optimizer.state[parameter].items() if v.shape == parameter.shape}
    return {"weight": parameter.detach(), **state}


@both
def test_unsampled_rows_keep_weight_and_state_bit_for_bit(kind):
    weight = centres()
    optimizer = SPARSE[kind]([weight])
    weight.grad = sparse(range(NUM_ROWS), seed=1).to_dense()  # every row gets momentum first
    optimizer.step()
    for step, rows in enumerate([[0, 4], [4, 5, 6], [2]]):
        before = copy.deepcopy(row_state(optimizer, weight))
        weight.grad = sparse(rows, seed=step)
        optimizer.step()
        after = row_state(optimizer, weight)
        untouched = [row for row in range(NUM_ROWS) if row not in rows]
        assert set(after) == {
            "weight",
            *({"momentum_buffer"} if kind == "sgd" else {"exp_avg", "exp_avg_sq"}),
        }
        for name in after:
            assert torch.equal(after[name][untouched], before[name][untouched]), name
            assert (after[name][rows] != before[name][rows]).all(), name


@both
@pytest.mark.parametrize("foreach", [False, True])
def test_with_all_rows_sampled_it_is_the_dense_optimiser(kind, foreach):
    ours, reference = centres(), centres()
    optimizers = SPARSE[kind]([ours], foreach=foreach), DENSE[kind]([reference], foreach=foreach)
    for step in range(5):
        ours.grad = sparse(range(NUM_ROWS), seed=step)
        reference.grad = ours.grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(ours, reference)
    ours_state, reference_state = (list(o.state_dict()["state"][0].items()) for o in optimizers)
    assert [name for name, _ in ours_state] == [name for name, _ in reference_state]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours_state, reference_state))


@both
def test_sampled_rows_move_as_a_dense_parameter_of_those_rows(kind):
    rows = [1, 3, 6]
    ours = centres()
    reference = nn.Parameter(ours.detach()[rows].clone())
    optimizers = SPARSE[kind]([ours]), DENSE[kind]([reference])
    for step in range(4):
        ours.grad = sparse(rows, seed=step)
        reference.grad = ours.grad.to_dense()[rows]
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours[rows], reference)


@both
@pytest.mark.parametrize("rows", [None, [1, 3, 6]])  # a dense gradient; sampled rows
def test_the_fused_form_is_the_plain_one_also_if_its_first_step_is_skipped(kind, rows):
    """The first momentum is 0 · momentum + gradient there, as without dampening it is the gradient here."""
    ours, reference = centres(), centres()
    optimizers = SPARSE[kind]([ours], fused=True), SPARSE[kind]([reference], fused=False)
    for step in range(4):
        gradient = sparse(rows or range(NUM_ROWS), seed=step)
        before = copy.deepcopy(row_state(optimizers[0], ours))
        ours.grad = gradient if rows else gradient.to_dense()
        optimizers[0].found_inf = torch.tensor(float(step in (0, 2)))
        optimizers[0].step()
        if step in (0, 2):
            after = row_state(optimizers[0], ours)
            assert all(torch.equal(after[name], value) for name, value in before.items())
            assert all(value.isfinite().all() for value in after.values())
            continue
        reference.grad = ours.grad.clone()
        optimizers[1].step()
    torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(row_state(optimizers[0], ours), row_state(optimizers[1], reference))


@both
def test_accumulated_gradients_with_common_rows_add_up(kind):
    ours, reference = centres(), centres()
    optimizers = SPARSE[kind]([ours]), SPARSE[kind]([reference])
    first, second = sparse([0, 2, 5], seed=1), sparse([2, 5, 6], seed=2)
    ours.grad = first + second  # what autograd does with two micro-batches; rows 2 and 5 may appear twice
    total = (first.to_dense() + second.to_dense())[[0, 2, 5, 6]]
    reference.grad = torch.sparse_coo_tensor(
        torch.tensor([[0, 2, 5, 6]]), total, ours.shape, check_invariants=True
    )
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(ours, reference)


@both
def test_a_step_without_any_sampled_row_moves_nothing(kind):
    weight = centres()
    before = weight.detach().clone()
    weight.grad = sparse([], seed=0)
    SPARSE[kind]([weight]).step()
    assert torch.equal(weight, before)


@both
def test_state_dict_round_trip_continues_exactly(kind):
    weight = centres()
    optimizer = SPARSE[kind]([weight])
    for step, rows in enumerate([[0, 1], [1, 5], [2, 3]]):
        if step == 2:
            weight_2, saved = nn.Parameter(weight.detach().clone()), copy.deepcopy(optimizer.state_dict())
        weight.grad = sparse(rows, seed=step)
        optimizer.step()
    resumed = SPARSE[kind]([weight_2])
    resumed.load_state_dict(saved)
    weight_2.grad = sparse([2, 3], seed=2)
    resumed.step()
    assert torch.equal(weight_2, weight)


def test_dense_and_sparse_parameters_share_one_optimiser():
    dense, weight = nn.Parameter(torch.ones(4)), centres()
    alone = nn.Parameter(torch.ones(4))
    optimizer, reference = SPARSE["sgd"]([dense, weight]), DENSE["sgd"]([alone])
    for step in range(3):
        dense.grad = alone.grad = torch.arange(4.0)
        weight.grad = sparse([step], seed=step)
        optimizer.step()
        reference.step()
    assert torch.equal(dense, alone)
    assert set(optimizer.state) == {dense, weight}  # no temporary block is left behind


def test_an_interrupted_step_leaves_the_parameters_in_their_groups(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    weight = centres()
    optimizer = SPARSE["sgd"]([weight])
    weight.grad = sparse([1], seed=0)
    monkeypatch.setattr(torch.optim.SGD, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert optimizer.param_groups[0]["params"] == [weight]
    assert set(optimizer.state) <= {weight}


# -- groups --------------------------------------------------------------------


def settings(**changed):
    return EasyDict(
        dict(optimizer="sgd", momentum=0.8, weight_decay=0.01, no_decay_norm_bias=False)
        | dict(sampled_update="sparse")
        | changed
    )


def networks():
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 2)
    )
    backbone[4].weight.requires_grad_(False)  # as insightface does with its last norm
    return backbone, PartialFC(build_loss("cosface"), 2, 5)


def decay_by_name(optimizer, modules):
    names = {p: f"{i}.{name}" for i, module in enumerate(modules) for name, p in module.named_parameters()}
    return {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


def test_by_default_everything_that_learns_is_decayed():
    modules = networks()
    decays = decay_by_name(build_optimizer(settings(), *modules, lr=0.1), modules)
    learning = [name for module in modules for name, p in module.named_parameters() if p.requires_grad]
    assert len(decays) == len(learning) == 9
    assert set(decays.values()) == {0.01}
    assert "0.4.weight" not in decays


def test_without_decay_of_norms_and_biases_only_matrices_are_decayed():
    modules = networks()
    optimizer = build_optimizer(settings(no_decay_norm_bias=True), *modules, lr=0.1)
    decays = decay_by_name(optimizer, modules)
    assert {name for name, decay in decays.items() if decay} == {"0.0.weight", "0.5.weight", "1.weight"}
    assert len(decays) == 9
    assert [group["name"] for group in optimizer.param_groups] == ["backbone", "head", "no_decay"]


def test_every_setting_reaches_the_optimiser():
    sgd = build_optimizer(settings(), *networks(), lr=0.3)
    assert (sgd.defaults["lr"], sgd.defaults["momentum"]) == (0.3, 0.8)
    adamw = build_optimizer(settings(optimizer="adamw"), *networks(), lr=0.3)
    assert (adamw.defaults["lr"], adamw.defaults["betas"]) == (0.3, (0.8, 0.999))
    assert isinstance(adamw, torch.optim.AdamW)


def test_an_unknown_optimiser_is_named():
    with pytest.raises(ValueError, match=r"optimizer 'adam': allowed are .* did you mean 'adamw'"):
        build_optimizer(settings(optimizer="adam"), *networks(), lr=0.1)


# -- loss scaling --------------------------------------------------------------


def steps_with_an_overflow_on_the_last_rank() -> list[tuple[bool, float, bool]]:
    """Of six steps, the second of each three overflowing: moved?, new scale / old scale, still finite?"""
    weight = centres(seed=rank())
    optimizer, scaler = SPARSE["sgd"]([weight]), make_scaler("fp16", torch.device("cpu"))
    seen = []
    for make in (lambda g: g, lambda g: g.to_dense()):
        for overflows in (False, True, False):
            before, scale = weight.detach().clone(), scaler.get_scale()
            scaler.scale(torch.ones(()))  # fixes the scale's device, as the loss does
            rows = [1, 4] if rank() == 0 else [2, 4, 5]
            factor = float("inf") if overflows and rank() == world_size() - 1 else scale
            gradient = sparse(rows, seed=1) * factor
            weight.grad = make(gradient + gradient)
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            moved = not torch.equal(weight, before)
            seen.append((moved, scaler.get_scale() / scale, bool(weight.isfinite().all())))
    return seen


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_an_overflow_on_one_rank_skips_the_step_and_halves_the_scale_on_all(num_ranks):
    step, skipped = (True, 1.0, True), (False, 0.5, True)
    seen = run_ranks(num_ranks, steps_with_an_overflow_on_the_last_rank)
    assert seen == [[step, skipped, step, step, skipped, step]] * num_ranks


def test_the_scaled_and_unscaled_step_are_equal(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain, scaled = centres(), centres()
        optimizers = SPARSE["sgd"]([plain]), SPARSE["sgd"]([scaled])
        scaler = make_scaler("fp16", torch.device("cpu"))
        scaler.scale(torch.ones(()))
        plain.grad = sparse([0, 3], seed=1)
        scaled.grad = sparse([0, 3], seed=1) * scaler.get_scale()
        optimizers[0].step()
        scaler.step(optimizers[1])
        assert torch.equal(plain, scaled)  # the scale is a power of two
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_scaler_is_at_work_outside_fp16(precision):
    scaler = make_scaler(precision, torch.device("cpu"))
    assert scaler.scale(torch.tensor(2.0)) == 2
    assert not scaler.is_enabled()
