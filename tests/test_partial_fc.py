"""PartialFC on one rank: both engines alike, states and samples, precision, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.head_cases import Case, data, errors, make_head, relative_error, run_case
from helpers.interface_losses import INTERFACE_VARIANTS, Compact, RunningNorm
from helpers.loss_references import VARIANTS, Variant
from losses import build_loss, build_regularizer
from losses.base import MarginLoss
from partial_fc import PartialFC, initial_centres
from training.training_state import seed_step

ENGINES = ("dense", "stream")
EXTREMES = [Variant("arcface"), Variant("softmax"), *INTERFACE_VARIANTS]


def step(head: PartialFC, embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    embeddings = embeddings.detach().clone().requires_grad_()
    head.weight.grad = None
    loss = head(embeddings, labels)
    loss.backward()
    return {"loss": loss.detach(), "embeddings": embeddings.grad, "weight": head.weight.grad}


def batch(num_classes: int, size: int = 16, embedding_size: int = 8, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (size,), generator=generator)
    return 5 * torch.randn(size, embedding_size, generator=generator), labels


# ---- the engines


@pytest.mark.parametrize("variant", [*VARIANTS, *INTERFACE_VARIANTS], ids=str)
@settings(max_examples=10)
@given(
    num_classes=st.integers(1, 40),
    size=st.integers(1, 20),  # 8 dimensions: some samples' products are kept, those of others are not
    chunk_size=st.integers(1, 45),
    sample_rate=st.sampled_from([1.0, 0.6, 0.1, 0.0]),
    easy=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_stream_equals_dense_to_float64_accuracy(
    variant, num_classes, size, chunk_size, sample_rate, easy, seed
):
    shared = {
        "batches": (size,),
        "num_classes": num_classes,
        "sample_rate": sample_rate,
        "easy": easy,
        "seed": seed,
    }
    dense = run_case(Case(variant, "dense", **shared), torch.float64)
    stream = run_case(Case(variant, "stream", chunk_size=chunk_size, **shared), torch.float64)
    assert torch.equal(dense["sampled"], stream["sampled"])
    for name in ("loss", "grad_embeddings", "grad_weight"):
        torch.testing.assert_close(
            stream[name], dense[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_derivative_is_an_error_and_not_a_wrong_number(engine):
    head = PartialFC(build_loss("arcface"), 8, 20, engine=engine)
    embeddings, labels = batch(20)
    (gradient,) = torch.autograd.grad(
        head(embeddings.requires_grad_(), labels), embeddings, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("variant", EXTREMES, ids=str)
def test_a_graph_can_be_differentiated_twice(variant):
    case = Case(variant, "stream", (12,), chunk_size=4)
    head, (embeddings, labels) = make_head(case), data(case)
    inputs = embeddings.requires_grad_(), head.weight
    loss = head(embeddings, labels)
    first = [gradient.clone() for gradient in torch.autograd.grad(loss, inputs, retain_graph=True)]
    for gradient, expected in zip(torch.autograd.grad(loss, inputs), first):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_is_of_the_state_that_its_forward_pass_had(engine):
    first, second = batch(20, seed=1), batch(20, seed=2)
    apart, together = (PartialFC(build_loss("curricularface", t_alpha=0.5), 8, 20) for _ in range(2))
    for embeddings, labels in (first, second):
        apart(embeddings, labels).backward()
    (together(*first) + together(*second)).backward()
    torch.testing.assert_close(together.weight.grad, apart.weight.grad)


@pytest.mark.parametrize(
    ("loss", "precision", "size", "expected"),
    [
        ("cosface", "fp32", 4, 3),
        ("cosface", "fp32", 16, 3.5),  # half of the batch fits in 8 dimensions
        ("cosface", "bf16", 16, 3),
        ("curricularface", "fp32", 8, 3),
        ("curricularface", "fp16", 32, 3.5),
        ("npcface", "bf16", 16, 3),  # reads the cosines twice before the backward pass
        ("npcface", "fp32", 16, 4),
    ],
)
def test_no_product_is_computed_twice_that_the_gradient_can_hold(loss, precision, size, expected):
    work = 0  # in products of the whole batch with all classes

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal work
            if function.overloadpacket == torch.ops.aten.mm and args[1].shape[1] > 1:
                work += args[0].shape[0] * args[0].shape[1] * args[1].shape[1] / (size * 8 * 20)
            return function(*args, **(kwargs or {}))

    head = PartialFC(build_loss(loss), 8, 20, precision=precision, chunk_size=7)
    with Count():
        step(head, *batch(20, size))
    assert work == pytest.approx(expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("loss", ["normface", "npcface"])
def test_it_does_not_matter_what_the_memory_of_the_gradient_held_before(monkeypatch, loss, precision):
    """bf16 products of a CPU read beyond the end of a row, and 0 · NaN is NaN."""
    clean = [
        step(PartialFC(build_loss(loss), 8, 40, precision=precision), *batch(40, b)) for b in range(1, 17)
    ]
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, math.nan))
    for size, expected in enumerate(clean, start=1):
        got = step(PartialFC(build_loss(loss), 8, 40, precision=precision), *batch(40, size))
        for name, value in got.items():
            torch.testing.assert_close(
                value, expected[name], msg=lambda m, n=name, b=size: f"{n}, batch {b}: {m}"
            )


@pytest.mark.parametrize("engine", ENGINES)
def test_either_side_can_be_frozen(engine):
    head = PartialFC(build_loss("arcface"), 8, 20, engine=engine)
    embeddings, labels = batch(20)
    both = step(head, embeddings, labels)
    head.weight.grad = None
    head(embeddings, labels).backward()
    torch.testing.assert_close(head.weight.grad, both["weight"])
    head.weight.requires_grad_(False)
    torch.testing.assert_close(step(head, embeddings, labels)["embeddings"], both["embeddings"])


# ---- states


@pytest.mark.parametrize("sample_rate", [1.0, 0.3])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", EXTREMES, ids=str)
def test_an_adversarial_pass_gives_the_input_gradient_and_changes_nothing(variant, engine, sample_rate):
    case = Case(variant, engine, (9,), chunk_size=4, sample_rate=sample_rate)
    head, twin = make_head(case), make_head(case)
    embeddings, labels = batch(case.num_classes, 9)
    step(head, embeddings, labels)
    step(twin, embeddings, labels)
    before = {name: torch.as_tensor(value).clone() for name, value in flat_state(head).items()}
    for either in (head, twin):
        either.zero_grad(set_to_none=True)

    attacked = embeddings.clone().requires_grad_()
    with head.only_input_gradient():
        head(attacked, labels).backward()
    assert all(parameter.grad is None for parameter in head.parameters())
    assert attacked.grad.abs().sum() > 0
    for name, value in flat_state(head).items():
        assert torch.equal(before[name], torch.as_tensor(value)), name
    expected = step(twin, embeddings, labels)  # the next step is as if it had not been
    for name, value in step(head, embeddings, labels).items():
        assert torch.equal(value.to_dense(), expected[name].to_dense()), name


def flat_state(head: PartialFC) -> dict:
    state = head.state_dict()
    extra = state.pop("_extra_state")
    return {**state, **extra}


@pytest.mark.parametrize("engine", ENGINES)
def test_running_statistics_advance_once_a_training_step_and_never_in_evaluation(engine):
    regularizer = Compact()
    head = PartialFC(RunningNorm(), 8, 20, engine=engine, regularizers=[regularizer], chunk_size=3)
    embeddings, labels = batch(20)
    for expected in (1, 2, 3):
        step(head, embeddings, labels)
        assert regularizer.steps == expected
    mean = head.loss.mean.clone()
    head.eval()
    step(head, embeddings, labels)
    head.train()
    with torch.no_grad():
        head(embeddings, labels)
    assert regularizer.steps == 3
    assert torch.equal(head.loss.mean, mean)


def test_two_regularizers_of_one_kind_are_two_terms_in_the_log():
    settings = ("ndr", {"ramp": None}), ("disc", {"weight": 0.1}), ("disc", {})
    parts = [build_regularizer(name, **hyper) for name, hyper in settings]
    head = PartialFC(build_loss("cosface"), 8, 20, regularizers=parts)
    result = step(head, *batch(20))
    assert set(head.last_terms) == {"ce", "ndr", "disc_1", "disc_2"}
    torch.testing.assert_close(sum(head.last_terms.values()), result["loss"])
    torch.testing.assert_close(head.last_terms["disc_2"], 4 * head.last_terms["disc_1"])


def test_last_terms_show_each_part_of_the_loss_without_its_graph():
    head = PartialFC(RunningNorm(), 8, 20, regularizers=[Compact()])
    result = step(head, *batch(20))
    assert set(head.last_terms) == {"ce", "compact", "mean"}
    assert all(term.ndim == 0 and not term.requires_grad for term in head.last_terms.values())
    torch.testing.assert_close(head.last_terms["ce"] + head.last_terms["compact"], result["loss"])


@pytest.mark.parametrize("engine", ["stream", "dense"])
@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_what_is_told_of_a_sample_is_a_cosine_also_where_the_loss_takes_inner_products(engine, sample_rate):
    head = PartialFC(build_loss("softmax"), 8, 12, engine=engine, sample_rate=sample_rate)
    embeddings, labels = 40 * torch.randn(5, 8), torch.arange(5, 10)
    head(embeddings, labels)
    expected = torch.nn.functional.cosine_similarity(embeddings, head.weight.detach()[labels])
    torch.testing.assert_close(head.last_samples["own_cosine"], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(head.last_means["own_cosine"], expected.mean(), rtol=0, atol=1e-6)


class FollowingScale(MarginLoss):
    """scale · cos, with a scale that follows the batch, as AdaCos has it."""

    def __init__(self, moves_others: bool):
        super().__init__(10.0)
        self.moves_others = moves_others

    def update_state(self, own_cos, norms):
        self.scale = 5 + 10 * own_cos.mean().abs().item()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_scale_that_moves_in_a_step_has_to_be_declared(engine):
    def step_of(moves_others: bool, engine: str) -> float:
        head = PartialFC(FollowingScale(moves_others), 8, 20, engine=engine, chunk_size=8)
        return head(*batch(20)).item()

    with pytest.raises(ValueError, match=r"FollowingScale\.update_state changed .* moves_others = True"):
        step_of(moves_others=False, engine=engine)
    assert step_of(True, engine) == pytest.approx(step_of(True, "dense"), rel=1e-5)


def test_progress_reaches_the_loss_and_its_regularizers():
    seen = []

    class Ramp(MarginLoss):
        def set_progress(self, step, epoch, num_epoch):
            seen.append((step, epoch, num_epoch))

    class RampedTerm(Compact):
        set_progress = Ramp.set_progress

    PartialFC(Ramp(), 8, 20, regularizers=[RampedTerm()]).set_progress(7, 0.5, 20)
    assert seen == [(7, 0.5, 20)] * 2


# ---- centres and samples


def test_a_centre_depends_on_seed_and_class_alone():
    whole = initial_centres(5, 0, 3000, 16)
    for start, count in [(0, 10), (1000, 1100), (2047, 2), (2999, 1), (1024, 0)]:
        assert torch.equal(initial_centres(5, start, count, 16), whole[start : start + count])
    assert not torch.equal(initial_centres(6, 0, 10, 16), whole[:10])
    assert abs(whole.std().item() - 0.01) < 1e-4
    assert abs(whole.mean().item()) < 2e-4


def test_each_class_is_drawn_about_equally_often():
    head = PartialFC(build_loss("cosface"), 4, 50, sample_rate=0.2)
    count = torch.zeros(50)
    for _ in range(400):
        head(torch.ones(1, 4), torch.tensor([7]))
        assert 7 in head.sampled
        assert len(head.sampled.unique()) == 10
        count[head.sampled] += 1
    others = count[torch.arange(50) != 7]  # 400 · 9 / 49 = 73.5 expected, standard deviation 7.7
    assert others.min() > 73.5 - 5 * 7.7
    assert others.max() < 73.5 + 5 * 7.7


def test_which_classes_are_drawn_has_nothing_to_do_with_what_the_network_draws():
    head = PartialFC(build_loss("cosface"), 4, 200, sample_rate=0.3, seed=7)
    seed_step(7, 0)
    priority = torch.rand(200)  # dropout's numbers, for one
    head(torch.randn(1, 4), torch.tensor([0]))
    common = set(priority.topk(60).indices.tolist()) & set(head.sampled.tolist())
    assert len(common) < 30  # 18 on average; all 60 where both come from one seed


@pytest.mark.parametrize(
    ("rate", "labels", "count"), [(0.1, [1, 2, 3, 3], 3), (0.5, [1, 1], 5), (0.01, [4], 1)]
)
def test_the_share_of_classes_is_filled_up_but_never_cuts_positives(rate, labels, count):
    head = PartialFC(build_loss("cosface"), 4, 10, sample_rate=rate)
    head(torch.ones(len(labels), 4), torch.tensor(labels))
    assert len(head.sampled) == count
    assert set(labels) <= set(head.sampled.tolist())


# ---- precision


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", EXTREMES, ids=str)
@pytest.mark.parametrize(("precision", "bits"), [("bf16", 8), ("fp16", 11)])
def test_half_precision_products_cost_only_their_rounding(variant, engine, precision, bits):
    case = Case(variant, engine, (32,), num_classes=100, chunk_size=32)
    full, half = make_head(case), make_head(case)
    half.precision = precision
    half.weight.data.mul_(10)
    full.weight.data.mul_(10)
    embeddings, labels = batch(100, 32)
    embeddings /= 5
    expected = step(full, embeddings, labels)
    # cosines are rounded by 2^-bits, logits by 64 times that; a gradient moves by its logit's share
    for name, value in step(half, embeddings, labels).items():
        assert relative_error(value, expected[name].double()) < 64 * 2.0**-bits, name


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_tail_of_200_000_classes_is_summed_in_full(precision, engine):
    """Each class adds exp(−32) to the sum: 11 or 16 bits would lose most of them, or overflow at 65 504."""
    num_classes = 200_000
    head = PartialFC(build_loss("normface", s=64.0), 2, num_classes, engine=engine, precision=precision)
    head.weight.data.copy_(torch.tensor([-0.5, 0.75**0.5]))
    result = step(head, torch.tensor([[3.0, 0.0]]), torch.tensor([17]))
    assert result["loss"].item() == pytest.approx(math.log(num_classes), rel=1e-3)
    assert all(value.isfinite().all() for value in result.values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_200_000_classes_in_half_precision_stay_near_float32(precision):
    embeddings, labels = batch(200_000, 8, embedding_size=32)
    heads = [PartialFC(build_loss("arcface"), 32, 200_000, precision=p) for p in ("fp32", precision)]
    expected, got = (step(head, embeddings, labels) for head in heads)
    assert all(value.isfinite().all() for value in got.values())
    assert relative_error(got["loss"], expected["loss"].double()) < 0.003
    assert relative_error(got["embeddings"], expected["embeddings"].double()) < 0.05
    assert relative_error(got["weight"], expected["weight"].double()) < 0.05


@pytest.mark.parametrize("size", [16, 200])  # with all products kept, and with some computed anew
@pytest.mark.parametrize("loss", ["arcface", "curricularface", "sphereface"])
def test_float16_has_digits_for_the_gradient_of_every_class(loss, size):
    """Most classes get a small share of a gradient; in steps of 6e-8 little would be left of it."""
    embeddings, labels = batch(20_000, size, embedding_size=64)
    heads = [PartialFC(build_loss(loss), 64, 20_000, precision=p) for p in ("fp32", "fp16")]
    expected, got = (step(head, embeddings, labels)["weight"] for head in heads)
    error = (got - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.median() < 0.005
    assert error.quantile(0.9) < 0.02


def test_float16_gradients_stay_finite_where_everybody_resembles_one_class():
    head = PartialFC(build_loss("cosface"), 8, 40, precision="fp16")
    head.weight.data[1:] = -head.weight.data[0]
    embeddings = (1e4 * head.weight.data[:1]).repeat(512, 1)
    result = step(head, embeddings, torch.full((512,), 5))
    assert all(value.isfinite().all() for value in result.values())


@pytest.mark.parametrize("factor", [2.0**16, 2.0**24, 2.0**-24])
def test_stream_gradients_fit_half_precision_at_any_loss_scale(factor):
    head = PartialFC(build_loss("arcface"), 8, 50, precision="fp16")
    embeddings, labels = batch(50)
    plain = step(head, embeddings, labels)
    scaled = embeddings.clone().requires_grad_()
    head.weight.grad = None
    (head(scaled, labels) * factor).backward()
    torch.testing.assert_close(scaled.grad / factor, plain["embeddings"])
    torch.testing.assert_close(head.weight.grad / factor, plain["weight"])


def test_an_outer_autocast_changes_neither_loss_nor_streamed_gradients():
    head = PartialFC(build_loss("arcface"), 32, 100)
    embeddings, labels = batch(100, embedding_size=32)
    expected = step(head, embeddings, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = step(head, embeddings, labels)
    for name, value in got.items():
        assert torch.equal(value, expected[name]), name


# ---- what is refused


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("sample_rate", -0.1),
        ("sample_rate", 1.1),
        ("engine", "steam"),
        ("chunk_size", 0),
        ("precision", "fp8"),
        ("head_update", "fussed"),
        ("num_classes", 0),
    ],
)
def test_a_setting_out_of_range_is_an_error_with_its_name_and_value(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value!r} is out of range"):
        PartialFC(build_loss("arcface"), **{"embedding_size": 4, "num_classes": 5, setting: value})


@pytest.mark.parametrize("label", [-1, 5, 10**12])
def test_a_label_outside_the_classes_is_an_error_with_label_sample_and_range(label):
    head = PartialFC(build_loss("arcface"), 4, 5)
    with pytest.raises(ValueError, match=rf"label {label} of sample 2 .* \[0, 5\), num_classes=5"):
        head(torch.ones(4, 4), torch.tensor([0, 4, label, 99]))


def test_a_batch_without_samples_is_an_error_and_not_nan():
    with pytest.raises(ValueError, match="no sample on any rank"):
        PartialFC(build_loss("arcface"), 4, 5)(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def test_more_embeddings_than_labels_is_an_error():
    with pytest.raises(ValueError, match="3 embeddings, 2 labels"):
        PartialFC(build_loss("arcface"), 4, 5)(torch.ones(3, 4), torch.tensor([1, 2]))


@pytest.mark.parametrize("engine", ["dense", "stream"])
def test_at_sample_rate_0_the_classes_of_the_batch_are_told_from_one_another(engine):
    case = Case(Variant("arcface"), engine, (9,), chunk_size=4, sample_rate=0.0)
    result = run_case(case)
    assert result["sampled"].tolist() == data(case)[1].unique().tolist()
    for name, error in errors(case, [result]).items():
        assert error < 1e-5, name
