"""PartialFC on 1, 2 and 3 ranks: the same numbers as one process with the whole logit matrix.

One group of processes is started for each world size; it runs everything, and the claims look at the results.
"""

import itertools
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from helpers.head_cases import Case, errors, run_case
from helpers.interface_losses import INTERFACE_VARIANTS, InterfaceVariant
from helpers.loss_references import VARIANTS, Variant
from helpers.ranks import run_ranks
from losses import build_loss
from losses.base import MarginLoss
from partial_fc import PartialFC
from utils.distributed import rank, start_process_group, stop_process_group, world_size

ENGINES = ("dense", "stream")
WORLDS = (1, 2, 3)
ALL_VARIANTS = [*VARIANTS, *INTERFACE_VARIANTS]
FILTERED = Variant("combined", {"interclass_filtering_threshold": 0.3})

CHUNKED = {"engine": "stream", "chunk_size": 4}
SETTINGS = [
    *({"engine": "dense", "sample_rate": rate} for rate in (1.0, 0.5, 0.0)),
    CHUNKED,
    {"engine": "stream", "chunk_size": 1, "sample_rate": 0.5},
    {"engine": "stream", "sample_rate": 0.1},
    {"engine": "stream", "sample_rate": 0.0},
]
# Batches by rank, classes, label range; a world of W takes the last W batch sizes.
SHAPES = {
    "an empty rank": ((3, 0, 4), 23, None),
    "the first rank empty": ((5, 0, 4), 23, None),
    "one sample in all": ((0, 0, 1), 23, None),
    "only the first rank has positives": ((4, 4, 4), 23, 7),
    "one class": ((2, 1, 3), 1, None),
    "fewer classes than ranks": ((2, 1, 3), 2, None),
    "as many classes as ranks": ((2, 1, 3), 3, None),
    "one label": ((4, 2, 5), 23, 1),
}


# Losses without branches, which the rounding of a cosine could take the other way.
SMOOTH = [
    Variant("arcface"),
    Variant("softmax"),
    *map(InterfaceVariant, ("pair_similarity", "cosines_as_they_are", "with_regularizer")),
]
BITS = {"bf16": 8, "fp16": 11}


def half_precision_cases(world: int) -> list[Case]:
    """Up to 21 samples, of which the gradient's memory keeps the products of 16."""
    shape = {"batches": (5, 2, 14)[-world:], **CHUNKED}
    return [Case(variant, precision=precision, **shape) for variant in SMOOTH for precision in BITS]


def cases_of(variant, world: int) -> list[Case]:
    return [Case(variant, batches=(5, 2, 4)[-world:], **settings) for settings in SETTINGS]


def shape_cases(name: str, world: int) -> list[Case]:
    batches, num_classes, label_range = SHAPES[name]
    shape = {"batches": batches[-world:], "num_classes": num_classes, "label_range": label_range}
    variants = (
        Variant("arcface"),
        FILTERED,
        InterfaceVariant("moved_by_own"),
        InterfaceVariant("with_regularizer"),
    )
    settings = {"engine": "dense"}, CHUNKED, {**CHUNKED, "sample_rate": 0.1}
    return [Case(v, **shape, **s) for v, s in itertools.product(variants, settings)]


def easy_cases(variant, world: int, engine: dict) -> list[Case]:
    return [Case(variant, batches=(6,) * world, easy=True, seed=seed, **engine) for seed in range(2)]


def all_cases(world: int) -> list[Case]:
    cases = [case for variant in ALL_VARIANTS for case in cases_of(variant, world)]
    cases += [case for name in SHAPES for case in shape_cases(name, world)]
    cases += half_precision_cases(world)
    return cases + [
        c for v in VARIANTS for e in ({"engine": "dense"}, CHUNKED) for c in easy_cases(v, world, e)
    ]


def train(engine: str, accumulate: int = 1) -> dict:
    """20 steps of SGD on a linear backbone and centres; the ranks share global batches of 12."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 12, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(11, (20, 12), generator=generator)
    linear = nn.Linear(6, 8).double()
    nn.init.orthogonal_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    backbone = DistributedDataParallel(linear)
    head = PartialFC(build_loss("arcface", s=16.0), 8, 11, engine=engine, chunk_size=4).double()
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.05, momentum=0.9)
    size = 12 // world_size() // accumulate
    for step in range(20):
        for part in range(accumulate):
            start = (part * world_size() + rank()) * size
            mine = slice(start, start + size)
            (head(backbone(images[step, mine]), labels[step, mine]) / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"backbone": linear.weight.detach(), "bias": linear.bias.detach(), "centres": head.weight.detach()}


def sampling() -> dict:
    """Which of 12 classes a rank three steps draw, the same steps again, and a fourth after loading."""

    def head():
        return PartialFC(build_loss("cosface"), 4, 12 * world_size(), sample_rate=0.5, seed=3)

    def step(head):
        # Every rank's first class is a positive: what else differs between the ranks is drawn.
        labels = torch.arange(0, head.num_classes, 12)
        head(torch.ones(len(labels), 4), labels)
        return head.sampled

    first, second = head(), head()
    steps = [step(first) for _ in range(3)]
    again = [step(second) for _ in range(3)]
    resumed = head()
    resumed.load_state_dict(first.state_dict())
    return {
        "start": first.class_start,
        "steps": steps,
        "again": again,
        "fourth": (step(first), step(resumed)),
    }


class DrawsByItself(MarginLoss):
    def own_logit(self, own_cos, norms, statistics):
        return self.scale * (own_cos - torch.rand(len(own_cos)))


def labels_outside() -> list[str]:
    """The errors of three bad labels, of which the last rank brings the first two and rank 0 the third."""
    messages = []
    for label, bad_rank in ((7, world_size() - 1), (-1, world_size() - 1), (1000, 0)):
        labels = torch.tensor([0, 6, label if rank() == bad_rank else 3])
        with pytest.raises(ValueError, match="label") as error:
            PartialFC(build_loss("arcface"), 4, 7)(torch.ones(3, 4), labels)
        messages.append(str(error.value))
    return messages


def everything() -> dict:
    torch.manual_seed(rank())  # torch's own generator differs between ranks: no loss may draw from it
    return {
        "drawn": PartialFC(DrawsByItself(), 4, 7)(torch.ones(3, 4), torch.arange(3)).item(),
        "cases": {repr(case): run_case(case) for case in all_cases(world_size())},
        "trained": {engine: train(engine) for engine in ENGINES},
        "accumulated": {engine: train(engine, accumulate=2) for engine in ENGINES},
        "sampling": sampling(),
        "labels": labels_outside(),
    }


@lru_cache
def outcome(world: int) -> list[dict] | AssertionError:
    if world > 1:
        try:
            return run_ranks(world, everything, timeout=280)  # seconds on a free machine
        except AssertionError as failure:
            return failure  # kept as well: a fault does not start the ranks again for every claim
    start_process_group()
    try:
        return [everything()]
    finally:
        stop_process_group()


def results(world: int) -> list[dict]:
    if isinstance(outcome(world), AssertionError):
        raise outcome(world)
    return outcome(world)


def steps(case: Case) -> list[dict]:
    return [result["cases"][repr(case)] for result in results(len(case.batches))]


def assert_exact(case: Case) -> None:
    by_rank = steps(case)
    for name, error in errors(case, by_rank).items():
        assert error < 1e-5, (name, case)
    assert len({result["loss"].item() for result in by_rank}) == 1
    for name, gradient in by_rank[0]["grad_parameters"].items():  # the ranks' losses must not drift apart
        assert all(torch.equal(result["grad_parameters"][name], gradient) for result in by_rank), (name, case)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("variant", ALL_VARIANTS, ids=str)
def test_loss_and_gradients_equal_the_whole_matrix_in_float64(variant, world):
    for case in cases_of(variant, world):
        assert_exact(case)


@pytest.mark.parametrize("world", [2, 3])
def test_a_loss_that_draws_from_torchs_own_generator_would_be_found_out(world):
    """All ranks have one loss: the claim above holds of each loss in the registry, and not of this one."""
    assert len({result["drawn"] for result in results(world)}) == world


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_odd_batches_and_class_counts_are_as_exact(shape, world):
    for case in shape_cases(shape, world):
        assert_exact(case)


@pytest.mark.parametrize("world", WORLDS)
def test_half_precision_products_cost_only_their_rounding_on_any_number_of_ranks(world):
    for case in half_precision_cases(world):
        for name, error in errors(case, steps(case)).items():
            # logits are cosines, rounded by 2^-bits, times 64; a gradient moves by its logit's share
            assert error < 64 * 2.0 ** -BITS[case.precision], (name, case)


def largest(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: max(error[name] for error in found) for name in found[0]}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_near_convergence_no_engine_errs_more_than_twice_float32_dense(variant, world):
    alone = [replace(case, batches=(6 * world,)) for case in easy_cases(variant, world, {"engine": "dense"})]
    allowed = largest([errors(case, [run_case(case)]) for case in alone])
    for engine in ({"engine": "dense"}, CHUNKED):
        found = [errors(case, steps(case)) for case in easy_cases(variant, world, engine)]
        for name, error in largest(found).items():
            assert error < max(1e-5, 2 * allowed[name]), (name, engine)


@pytest.mark.parametrize("world", WORLDS)
def test_sampled_gradients_are_sparse_over_exactly_the_sampled_rows(world):
    for case in cases_of(Variant("arcface"), world):
        for result in steps(case):
            if case.sample_rate == 1:
                assert result["grad_rows"] is None
            else:
                assert torch.equal(result["grad_rows"], result["sampled"])


def test_every_world_size_starts_with_the_same_centres_and_every_rank_with_its_own():
    whole = [
        torch.cat([r["weight"] for r in steps(cases_of(Variant("arcface"), world)[0])]) for world in WORLDS
    ]
    assert torch.equal(whole[0], whole[1])
    assert torch.equal(whole[0], whole[2])
    assert len(whole[0].unique(dim=0)) == 23


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", ["trained", "accumulated"])
def test_ranks_and_accumulation_train_to_the_weights_of_one_large_batch(how, engine, world):
    alone = results(1)[0]["trained"]["dense"]
    by_rank = [result[how][engine] for result in results(world)]
    for result in by_rank:
        torch.testing.assert_close(result["backbone"], alone["backbone"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(result["bias"], alone["bias"], rtol=1e-9, atol=1e-9)
    centres = torch.cat([result["centres"] for result in by_rank])
    torch.testing.assert_close(centres, alone["centres"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_rank_accumulates_to_the_weights_of_one_large_batch(engine):
    alone = results(1)[0]
    for name, value in alone["trained"]["dense"].items():
        torch.testing.assert_close(alone["accumulated"][engine][name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_draw_different_classes_and_each_step_draws_anew(world):
    draws = [result["sampling"] for result in results(world)]
    local = [tuple((step - draw["start"]).tolist()) for draw in draws for step in draw["steps"]]
    assert len(set(local)) == 3 * world


@pytest.mark.parametrize("world", WORLDS)
def test_samples_keep_every_positive_and_depend_on_seed_and_step_alone(world):
    draws = [result["sampling"] for result in results(world)]
    for step in range(3):
        union = torch.cat([draw["steps"][step] for draw in draws]).tolist()
        assert set(range(0, 12 * world, 12)) <= set(union)
        assert union == sorted(set(union))
    for draw in draws:
        assert [step.tolist() for step in draw["steps"]] == [step.tolist() for step in draw["again"]]
        assert torch.equal(*draw["fourth"])  # also after loading a state
        assert all(len(step) == 6 for step in draw["steps"])


@pytest.mark.parametrize("world", WORLDS)
def test_a_label_outside_is_the_same_error_on_every_rank(world):
    last = world - 1
    for result in results(world):
        assert result["labels"] == [
            f"label 7 of sample 2 on rank {last} is outside [0, 7), num_classes=7",
            f"label -1 of sample 2 on rank {last} is outside [0, 7), num_classes=7",
            "label 1000 of sample 2 on rank 0 is outside [0, 7), num_classes=7",
        ]
