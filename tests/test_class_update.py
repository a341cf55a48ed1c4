"""The fused update of a step asks of each number that the ranks may differ in whether it is finite."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from classifier import class_update
from classifier.class_update import ClassUpdate

NUMBERS = ("loss of the head", "loss of the step", "raw", "class rows", "centres")


class Rule:
    """Notes what the update says."""

    def __init__(self, step_loss: float):
        self.step_loss, self.skipped, self.num_rows = torch.tensor(step_loss), None, 0

    def start(self, skipped: torch.Tensor) -> None:
        self.skipped = skipped.item()

    def step_rows(self, parameter: nn.Parameter, rows: slice, gradient: torch.Tensor) -> None:
        self.num_rows += rows.stop - rows.start


def updated(numbers: dict[str, float]) -> Rule:
    """The rule after the update of 3 centres and 3 class rows, with these numbers in it."""
    one = {name: torch.full((2, 4), number) for name, number in numbers.items()}
    rule, weight, table = (
        Rule(numbers["loss of the step"]),
        nn.Parameter(torch.ones(3, 4)),
        nn.Parameter(torch.ones(3, 4)),
    )
    step = SimpleNamespace(shard=SimpleNamespace(columns=torch.tensor([0, 2])), chunk_size=2)
    update = ClassUpdate(rule, step, weight, [table])
    update.loss = torch.tensor(numbers["loss of the head"])
    update.centre_gradients = SimpleNamespace(
        small=lambda: [one["centres"]], chunks=lambda weight: [(slice(0, 3), torch.zeros(3, 4))]
    )
    update.run(one["raw"], [one["class rows"]])
    return rule


def test_a_step_of_finite_numbers_moves_all_rows():
    rule = updated(dict.fromkeys(NUMBERS, 0.5))
    assert (rule.skipped, rule.num_rows) == (0, 6)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_one_number_that_is_not_finite_skips_the_step(name, number):
    assert updated(dict.fromkeys(NUMBERS, 0.5) | {name: number}).skipped == 1


def test_what_another_rank_found_skips_the_step(monkeypatch):
    monkeypatch.setattr(class_update, "all_max", lambda found: torch.ones_like(found))
    assert updated(dict.fromkeys(NUMBERS, 0.5)).skipped == 1
