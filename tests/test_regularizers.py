"""Regularisers: NDR's memory, degenerate batches, ramps, settings."""

import inspect
import math

import pytest
import torch
from torch import Tensor

from helpers.regularizer_runs import EMBEDDING_SIZE, data
from losses import REGULARIZERS, build_loss, build_regularizer
from losses.base import Batch
from partial_fc import PartialFC

ENGINES = ("dense", "stream")


# ---- the memory of NDR


def memory_after(*batches: list[int], **settings) -> list[int]:
    """What is in the memory, oldest first, after steps whose noise points to these axes (none: no noise)."""
    ndr = build_regularizer("ndr", min_k=-1.0, h=1e-6, **settings)
    ndr.prepare(0, 16)
    for axes in batches:
        directions = torch.eye(16)[axes or [0]]
        max_cos = torch.full((len(directions),), 0.1 if axes else 0.9)
        ones = torch.ones(len(directions))
        ndr.update_state(Batch(directions, directions, ones, labels=None, max_cos=max_cos))
    assert ((ndr.memory.abs().sum(1) > 0) == (ndr.steps_left > 0)).all()
    return [int(entry.argmax()) for entry in ndr.memory if entry.any()]


def test_the_memory_is_first_in_first_out():
    assert memory_after([1], [2], [3], memory_size=3) == [1, 2, 3]
    assert memory_after([1], [2], [3], memory_size=2) == [2, 3]
    assert memory_after([1, 2], [3, 4], [5], memory_size=4) == [2, 3, 4, 5]
    assert memory_after([1], [2, 3, 4, 5], memory_size=2) == [4, 5]
    assert memory_after([1], [], [], [2], memory_size=2) == [1, 2]


def test_a_full_memory_takes_no_new_entry_where_the_newest_are_dropped():
    assert memory_after([1], [2], [3], memory_size=2, when_full="drop_newest") == [1, 2]
    assert memory_after([1, 2], [3, 4], [5], memory_size=3, when_full="drop_newest") == [1, 2, 3]
    # 1 and 2 leave after two steps: then there is room for 4.
    settings = {"memory_size": 2, "max_age": 2, "when_full": "drop_newest"}
    assert memory_after([1, 2], [3], [4], **settings) == [4]


def test_an_entry_leaves_after_max_age_steps():
    assert memory_after([1], [2], [], max_age=3) == [1, 2]
    assert memory_after([1], [2], [], [], max_age=3) == [2]
    assert memory_after([1], max_age=1) == [1]
    assert memory_after([1], [], max_age=1) == []


def test_a_direction_that_is_not_finite_never_enters_the_memory():
    ndr = build_regularizer("ndr", ramp=None)
    ndr.prepare(0, 4)
    embeddings = torch.eye(4)
    embeddings[1] = math.nan
    for _ in range(2):
        norms, max_cos = embeddings.norm(dim=1) * 50, embeddings.sum(1) * 0.1
        ndr.update_state(Batch(embeddings, embeddings, norms, labels=None, max_cos=max_cos))
    assert ndr.memory.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in ndr.buffers())


def head_with(name: str, engine: str = "stream", num_classes: int = 5, **hyper) -> PartialFC:
    regularizer = build_regularizer(name, **hyper)
    return PartialFC(build_loss("cosface"), 8, num_classes, engine=engine, regularizers=[regularizer])


def term_and_gradient(head: PartialFC, embeddings: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    embeddings = embeddings.clone().requires_grad_()
    head(embeddings, labels).backward()
    assert embeddings.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)
    assert all(buffer.isfinite().all() for buffer in head.buffers())
    (name,) = set(head.last_terms) - {"ce"}
    return head.last_terms[name].item(), embeddings.grad


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("over", ["non_noise", "all"])
def test_without_noise_or_with_noise_alone_the_term_is_zero(engine, over):
    embeddings, labels = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
    everything = {"max_cos": 1.0, "min_k": -1.0, "h": 1e-6}
    head = head_with("ndr", engine, ramp=None, over=over, **everything)
    value, _ = term_and_gradient(head, embeddings, labels)
    assert value == 0 if over == "non_noise" else value > 0
    head = head_with("ndr", engine, ramp=None, over=over, min_k=0.99)
    assert term_and_gradient(head, embeddings, labels)[0] == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", REGULARIZERS)
def test_degenerate_batches_stay_finite(name, engine):
    random = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    batches = [random[:1], torch.zeros(3, 8), random / random.norm(dim=1, keepdim=True), 1e6 * random]
    for num_classes in (1, 2, 5):
        hyper = {"ramp": None} if name == "ndr" else {}
        head = head_with(name, engine, num_classes, **hyper)
        for step, embeddings in enumerate([*batches, 30 * head.weight.detach()[[0, 0]]]):
            for dtype in (torch.float32, torch.bfloat16):
                labels = torch.arange(len(embeddings)) % num_classes
                value, _ = term_and_gradient(head, embeddings.to(dtype), labels)
                assert math.isfinite(value), step
        head.weight.data[0] = 0
        term_and_gradient(head, random, torch.arange(6) % num_classes)


# ---- ramps


@pytest.mark.parametrize(
    ("ramp", "shares"), [("epoch", [0, 0.25, 1]), (40, [0, 0.5, 1]), (400, [0, 0.05, 0.2]), (None, [1, 1, 1])]
)
def test_the_weight_follows_its_ramp(ramp, shares):
    embeddings, labels = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
    hyper = {"min_k": -1.0, "h": 1e-6, "max_cos": 1.0, "over": "all", "max_age": 1}
    full, _ = term_and_gradient(head_with("ndr", ramp=None, **hyper), embeddings, labels)
    head = head_with("ndr", ramp=ramp, **hyper)
    for (step, epoch), share in zip(((0, 0.0), (20, 1.0), (80, 4.0)), shares):
        head.set_progress(step, epoch, 4.0)
        assert term_and_gradient(head, embeddings, labels)[0] == pytest.approx(share * full, rel=1e-5)


def test_the_published_ramp_is_constant_within_an_epoch_and_0_in_the_first():
    ndr = build_regularizer("ndr", ramp="whole_epoch")
    shares = []
    for step in range(9):
        ndr.set_progress(step, step / 3, 3.0)
        shares.append(ndr.progress)
    assert shares == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize("ramp", ["epoch", 100])
def test_a_weight_without_a_schedule_that_it_can_follow_is_an_error(ramp):
    head = head_with("ndr", ramp=ramp)
    with pytest.raises(ValueError, match=r"'ndr' with ramp=.*set_progress"):
        head(torch.randn(3, 8), torch.arange(3))
    if ramp == "epoch":
        with pytest.raises(ValueError, match="num_epoch=0"):
            head.set_progress(1, 1.0, 0)


# ---- settings

OTHER_VALUES = {
    "ndr": {
        "weight": 3.0,
        "ramp": 3,
        "memory_size": 2,
        "when_full": "drop_newest",
        "max_age": 1,
        "max_cos": 0.2,
        "min_k": 0.5,
        "h": 0.1,
        "t_alpha": 0.1,
        "initial_mean": 0.0,
        "initial_std": 90.0,
        "over": "all",
    },
    "disc": {"weight": 0.1, "max_norm": 0.5},
    "center": {"weight": 0.1, "alpha": 0.1},
}
OUT_OF_RANGE = {
    "ndr": {
        "weight": [0.0, -1.0, math.nan, math.inf, "10"],
        "ramp": ["epochs", 0, -5, True, math.nan],
        "memory_size": [0, 1.5, True],
        "when_full": ["drop", None],
        "max_age": [0, 2.5],
        "max_cos": [-1.0, 1.1],
        "min_k": [-1.1, 1.0],
        "h": [0.0],
        "t_alpha": [0.0, 1.1],
        "initial_mean": [-1.0],
        "initial_std": [-1.0],
        "over": ["noise"],
    },
    "disc": {"weight": [0.0, -1.0], "max_norm": [0.0, math.nan]},
    "center": {"weight": [0.0, math.inf], "alpha": [0.0, 1.1]},
}
SETTINGS = [(name, key) for name, r in REGULARIZERS.items() for key in inspect.signature(r).parameters]


def test_every_setting_is_tested():
    for table in (OTHER_VALUES, OUT_OF_RANGE):
        assert [(name, key) for name, keys in table.items() for key in keys] == SETTINGS


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_every_setting_changes_the_term(name, key):
    # With t_alpha = 1 the initial values do not outlive the first batch.
    base = {"t_alpha": 0.5} if key.startswith("initial") else {"memory_size": 2} if key == "when_full" else {}
    losses = []
    for hyper in (base, {**base, key: OTHER_VALUES[name][key]}):
        head = head_with(name, **hyper)
        if name == "disc":
            head.regularizers[0].class_rows.data.fill_(0.1)
        for step in range(4):
            embeddings, _ = data(step)
            head.set_progress(step, step + 1, 9)
            head(embeddings.float(), torch.arange(12) % 5)
            losses.append(next(iter(v for k, v in head.last_terms.items() if k != "ce")).item())
    half = len(losses) // 2
    assert losses[:half] != pytest.approx(losses[half:], rel=1e-4)


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_a_setting_out_of_range_or_type_is_an_error_that_names_regulariser_setting_and_value(name, key):
    for value in OUT_OF_RANGE[name][key]:
        with pytest.raises(ValueError, match="it has to be ") as error:
            build_regularizer(name, **{key: value})
        assert f"'{name}'" in str(error.value)
        assert f"{key}={value!r}" in str(error.value)


def test_class_rows_start_alike_for_every_class():
    for name in ("disc", "center"):
        regularizer = build_regularizer(name)
        regularizer.prepare(3, EMBEDDING_SIZE)
        assert torch.equal(regularizer.class_rows, torch.zeros(3, EMBEDDING_SIZE))
