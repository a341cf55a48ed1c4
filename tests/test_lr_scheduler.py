"""The schedule equals insightface's recorded sequence where that is right, and torch's own schedulers."""

import json
import re
from pathlib import Path

import pytest
import torch

from helpers.job_files import load
from training.lr_scheduler import Schedule, learning_rate

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "lr_schedule.json").read_text())


@pytest.mark.parametrize("name", GOLDENS)
def test_poly_equals_insightface_but_for_its_first_warmup_step(name):
    warmup, total, power = re.fullmatch(r"warm(\d+)_total(\d+)_power([\d.]+)", name).groups()
    ours = [
        learning_rate(
            i,
            base_lr=0.2,
            total_steps=int(total),
            warmup_steps=int(warmup),
            scheduler="poly",
            power=float(power),
        )
        for i in range(int(total) + 1)
    ]
    first = 1 if int(warmup) else 0  # its first warm-up step runs at the full base_lr: a known fault
    assert ours[first:] == pytest.approx(GOLDENS[name][first:], rel=1e-12, abs=1e-15)
    assert len(ours) == len(GOLDENS[name])


def test_the_first_twenty_values_with_warmup():
    values = [learning_rate(i, base_lr=1.0, total_steps=25, warmup_steps=5) for i in range(20)]
    expected = [0.2, 0.2, 0.4, 0.6, 0.8, 1.0, 0.95, 0.9, 0.85, 0.8]
    expected += [0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3]
    assert values == pytest.approx(expected, rel=1e-12)


def optimizer():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)


def torch_sequence(scheduler, num_steps):
    values = []
    for _ in range(num_steps):
        values += scheduler.get_last_lr()
        scheduler.optimizer.step()
        scheduler.step()
    return values


def test_multistep_equals_torch():
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer(), [3, 7, 8], gamma=0.1)
    ours = [
        learning_rate(i, base_lr=0.3, total_steps=12, scheduler="multistep", milestones=[3, 7, 8], decay=0.1)
        for i in range(12)
    ]
    assert ours == pytest.approx(torch_sequence(reference, 12), rel=1e-12)


def test_cosine_equals_torch():
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer(), T_max=12)
    ours = [learning_rate(i, base_lr=0.3, total_steps=12, scheduler="cosine") for i in range(12)]
    assert ours == pytest.approx(torch_sequence(reference, 12), rel=1e-9)


@pytest.mark.parametrize("scheduler", ["poly", "multistep", "cosine"])
def test_every_schedule_warms_up_to_the_base_and_never_starts_at_zero(scheduler):
    values = [
        learning_rate(i, base_lr=0.5, total_steps=20, warmup_steps=4, scheduler=scheduler, milestones=[10])
        for i in range(20)
    ]
    assert values[:5] == pytest.approx([0.125, 0.125, 0.25, 0.375, 0.5])
    assert values[4:] == sorted(values[4:], reverse=True)
    assert min(values) > 0


def test_a_warmup_that_fills_the_run_is_a_ramp():
    values = [learning_rate(i, base_lr=1.0, total_steps=4, warmup_steps=4) for i in range(5)]
    assert values == pytest.approx([0.25, 0.25, 0.5, 0.75, 1.0])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        learning_rate(0, base_lr=1.0, total_steps=2, scheduler="cosin")
    with pytest.raises(ValueError, match=r"warm-up of 3 steps is longer than the run of 2 .*warmup_epoch=0"):
        learning_rate(0, base_lr=1.0, total_steps=2, warmup_steps=3)
    with pytest.raises(ValueError, match="step 3 is outside"):
        learning_rate(3, base_lr=1.0, total_steps=2)


# ---------------------------------------------------------------- out of a config


def test_a_schedule_counts_steps_in_global_batches_and_epochs_in_steps():
    cfg = load(
        "num_steps=None", "num_epoch=4", "batch_size=8", "gradient_acc=3", "lr=0.1", "lr_reference_batch=24",
        "warmup_epoch=0.5", "scheduler=multistep", "milestones=[1,2.26]", "lr_decay=0.5",
    )  # fmt: skip
    schedule = Schedule(cfg, num_batches=25, global_batch=48)
    assert (schedule.steps_per_epoch, schedule.total_steps) == (8, 32)
    assert schedule.base_lr == pytest.approx(0.2)
    assert (schedule.epoch(0), schedule.epoch(12), schedule.epoch(schedule.total_steps)) == (0, 1.5, 4)
    expected = dict(base_lr=0.2, total_steps=32, warmup_steps=4, scheduler="multistep", milestones=[8, 18])
    for step in range(33):
        assert schedule(step) == pytest.approx(learning_rate(step, **expected, decay=0.5))


def test_num_steps_decides_and_without_a_reference_batch_the_rate_is_taken_as_it_is():
    cfg = load("num_steps=7", "lr=0.3", "scheduler=cosine")
    schedule = Schedule(cfg, num_batches=100, global_batch=512)
    assert (schedule.total_steps, schedule.base_lr) == (7, 0.3)
    assert schedule(3) == learning_rate(3, base_lr=0.3, total_steps=7, scheduler="cosine")
    schedule = Schedule(load("poly_power=2", "num_steps=7"), num_batches=100, global_batch=512)
    assert schedule(3) == learning_rate(3, base_lr=0.1, total_steps=7, power=2)


def test_an_impossible_schedule_cannot_be_made():
    with pytest.raises(ValueError, match="gradient_acc=4 asks for more batches than an epoch's 3"):
        Schedule(load("gradient_acc=4"), num_batches=3, global_batch=512)
    with pytest.raises(ValueError, match="warm-up of 10 steps is longer than the run of 5"):
        Schedule(load("num_steps=5", "warmup_epoch=1"), num_batches=10, global_batch=128)
