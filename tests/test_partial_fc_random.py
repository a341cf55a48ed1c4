"""PartialFC on random batches, class counts, chunk sizes, sample rates and splits over 2 and 3 ranks.

Hypothesis draws the cases; one group of processes for each world size then runs all of them, in float64.
"""

from functools import partial

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from helpers.head_cases import Case, compared, run_case
from helpers.interface_losses import INTERFACE_VARIANTS
from helpers.loss_references import VARIANTS
from helpers.ranks import run_ranks

CASES_PER_VARIANT = 3


@st.composite
def cases(draw, variant, world: int) -> Case:
    """A case whose batch is split over the ranks in any way that leaves a sample to one of them."""
    num_classes = draw(st.integers(1, 40))
    return Case(
        variant,
        draw(st.sampled_from(["dense", "stream"])),
        draw(st.tuples(*[st.integers(0, 6)] * world).filter(any)),
        num_classes=num_classes,
        chunk_size=draw(st.integers(1, 45)),
        sample_rate=draw(st.sampled_from([1.0, 0.6, 0.1])),
        label_range=draw(st.integers(1, num_classes)),
        easy=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )


def random_cases(world: int) -> list[Case]:
    """The same ones on every run. They are only collected here: ranks are too slow to start for each."""
    collected = []
    for variant in [*VARIANTS, *INTERFACE_VARIANTS]:

        @settings(max_examples=CASES_PER_VARIANT, phases=[Phase.generate], database=None)
        @given(cases(variant, world))
        def collect(case):
            collected.append(case)

        collect()
    return collected


def run_all(cases: list[Case]) -> list[dict]:
    return list(map(partial(run_case, dtype=torch.float64), cases))


@pytest.mark.parametrize("world", [2, 3])
def test_loss_and_gradients_equal_the_whole_matrix_however_a_batch_is_split(world):
    found = random_cases(world)
    assert len(set(map(repr, found))) > 2 * len(VARIANTS)
    for case, by_rank in zip(found, zip(*run_ranks(world, run_all, found))):
        for name, (value, reference) in compared(case, list(by_rank)).items():
            # Near convergence it is the reference that has few digits: torch's log_softmax is off by 2e-7.
            allowed = 1e-6 * max(reference.abs().max(), 1e-3)
            assert (value - reference).abs().max() < allowed, (name, case)
