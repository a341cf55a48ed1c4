"""The GPU kernels of the classifier, in Triton's interpreter: the numbers of PyTorch and of float64."""

import gc
import itertools
import math
import re
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.kernels import choice, engine, spans
from classifier.kernels.engine import KernelClasses
from classifier.kernels.tiles import SHARED_KIB, SHARED_KIB_ELSEWHERE, Tiles, padded, tiles_on
from helpers.head_cases import Case, data, errors, make_head, relative_error, run_case
from helpers.interface_losses import Compact
from helpers.loss_references import VARIANTS, Variant
from helpers.new_memory import fill_new_memory
from helpers.ranks import run_ranks
from losses import build_loss
from losses.base import MarginLoss
from partial_fc import PartialFC

WITH_KERNELS = [variant for variant in VARIANTS if choice.has_kernel(variant.make()[0])]
FILTERED = Variant("combined", {"interclass_filtering_threshold": 0.3})
KINDS = [Variant(name) for name in ("softmax", "sphereface", "arcface", "npcface", "uniface")] + [FILTERED]
SMALLEST = Tiles(classes=16, samples=16, rows=16, dims=16)


def short_spans(tiles: Tiles = SMALLEST, num_tiles: int = 1):
    """Within it a span is `num_tiles` tiles, on every machine."""
    sizes = dict(SPAN_CLASSES=tiles.classes, MIN_SPAN_TILES=num_tiles, SCRATCH_BYTES=1)
    return patch.multiple(spans, **sizes), patch.object(engine, "tiles_for", lambda *_: tiles)


@pytest.fixture
def small():
    """Spans of one tile, so that what goes from one to the next is tested."""
    first, second = short_spans()
    with first, second:
        yield


def step(head: PartialFC, embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    embeddings = embeddings.detach().to(head.weight.dtype).clone().requires_grad_()
    head.weight.grad = None
    loss = head(embeddings, labels)
    loss.backward()
    learnt = {name: parameter.grad for name, parameter in head.loss.named_parameters()}
    return {"loss": loss.detach(), "embeddings": embeddings.grad, "weight": head.weight.grad, **learnt}


# ---- exactness


@pytest.mark.parametrize("variant", WITH_KERNELS, ids=str)
@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_losses_and_gradients_are_those_of_the_whole_matrix_in_float64(small, variant, sample_rate):
    case = Case(variant, "stream", (11,), sample_rate=sample_rate, kernels=True)  # 8 of 11 samples are kept
    for name, error in errors(case, [run_case(case)]).items():
        assert error < 1e-5, name


@settings(max_examples=20)
@given(
    loss=st.sampled_from(["cosface", "curricularface", "softmax", "npcface", "sphereface", "uniface"]),
    size=st.integers(1, 40),
    num_classes=st.integers(1, 70),
    dims=st.integers(2, 70),  # with one all gradients are 0, but for rounding
    tiles=st.builds(
        Tiles, **{name: st.sampled_from([16, 32]) for name in "classes samples rows dims".split()}
    ),
    num_tiles=st.integers(1, 3),
    precision=st.sampled_from(["fp32", "fp16"]),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_any_tile_is_as_exact_as_the_whole_matrix_in_the_same_precision(
    loss, size, num_classes, dims, tiles, num_tiles, precision, seed
):
    generator = torch.Generator().manual_seed(seed)
    embeddings = 3 * torch.randn(size, dims, generator=generator)
    labels = torch.randint(num_classes, (size,), generator=generator)

    def run(dtype: torch.dtype, **settings) -> dict[str, torch.Tensor]:
        head = PartialFC(build_loss(loss), dims, num_classes, seed=seed % 1000, **settings).to(dtype)
        head.weight.data *= 50
        return step(head, embeddings, labels)

    exact = run(torch.float64, engine="dense")
    dense = run(torch.float32, engine="dense", precision=precision)
    first, second = short_spans(tiles, num_tiles)
    with first, second:
        got = run(torch.float32, kernels=True, precision=precision)
    floor = 1e-5 if precision == "fp32" else 1e-3
    for name, value in exact.items():
        allowed = max(2 * relative_error(dense[name], value), floor)
        assert relative_error(got[name], value) <= allowed, name


@pytest.mark.parametrize("loss", ["arcface", "curricularface"])
def test_float16_has_digits_for_the_gradient_of_every_class(loss):
    """Most classes get a small share of a gradient; in steps of 6e-8 little would be left of it."""
    embeddings = 5 * torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    heads = [
        PartialFC(build_loss(loss), 64, 2000, precision=precision, kernels=precision == "fp16")
        for precision in ("fp32", "fp16")
    ]
    expected, got = (step(head, embeddings, torch.arange(16))["weight"] for head in heads)
    lengths = expected.norm(dim=1)
    error = (got - expected).norm(dim=1) / lengths
    assert lengths.median() < 1e-3 * lengths.max()
    assert error.median() < 0.005
    assert error.quantile(0.9) < 0.02


def test_largest_cosines_and_own_centres_reach_the_regularisers(small):
    for loss in ("arcface", "softmax"):
        heads = [
            PartialFC(build_loss(loss), 8, 40, regularizers=[Compact()], kernels=kernels)
            for kernels in (True, False)
        ]
        case = Case(Variant(loss), "stream", (12,), num_classes=40)
        got, expected = (step(head, *data(case)) for head in heads)
        for name, value in got.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


# ---- ranks


SHAPES = {
    "uneven": ((5, 2, 4), 23),
    "an empty rank": ((3, 0, 4), 23),
    "a rank without classes": ((2, 1, 3), 2),
    "no other class": ((2, 1, 3), 1),
}


def rank_cases() -> list[Case]:
    shapes = [Case(variant, "stream", *shape) for variant, shape in itertools.product(KINDS, SHAPES.values())]
    sampled = [Case(v, "stream", (5, 2, 4), num_classes=60, sample_rate=0.3) for v in KINDS]
    half = [Case(v, "stream", (5, 2, 14), precision="fp16") for v in KINDS[:3]]
    return [Case(**{**vars(case), "kernels": True}) for case in [*shapes, *sampled, *half]]


def run_cases(cases: list[Case]) -> list[dict]:
    first, second = short_spans()
    with first, second:
        return [run_case(case) for case in cases]


def test_three_ranks_give_the_numbers_of_one_process():
    cases = rank_cases()
    by_rank = run_ranks(3, run_cases, cases)
    for case, results in zip(cases, zip(*by_rank)):
        tolerance = 1e-5 if case.precision == "fp32" else 0.02
        for name, error in errors(case, results).items():
            assert error < tolerance, (str(case), name)


# ---- filtering


@pytest.mark.parametrize("loss", ["cosface", "curricularface"])
@pytest.mark.parametrize("size", [16, 80])  # all samples' blocks are kept, or some are made anew
def test_filtered_tiles_are_not_read_and_their_gradients_are_below_the_threshold(small, loss, size):
    """Each sample resembles its own class, in the first tile, and another one, in the second; no other."""
    labels = torch.arange(size) % 16

    def make_step(filters: bool) -> dict:
        settings = dict(precision="fp16", kernels=True, filter_gradients=filters)
        head = PartialFC(build_loss(loss), 32, 80, **settings)
        head.weight.data[16:32] = head.weight.data[:16] + 0.2 * head.weight.data[32:48]
        return {
            **step(head, 50 * head.weight.data[labels], labels),
            "length": head.weight.detach().norm(dim=1),
        }

    counts = []

    def watched(self, classes, parts, scales, right, out, write=spans.Kernels.write_centres):
        counted = (torch.cat([part.reference for part in parts], 1) > scales.cutoff).any(1).item()
        counts.append(counted)
        for part in parts if not counted else ():
            part.values.fill_(math.nan)  # nobody reads it
        write(self, classes, parts, scales, right, out)

    exact = make_step(False)
    with patch.object(spans.Kernels, "write_centres", watched):
        filtered = make_step(True)
    assert counts == [False, True, False, False, False]
    assert torch.equal(filtered["loss"], exact["loss"])
    assert not filtered["weight"][32:].any()
    assert exact["weight"][32:].any()
    largest = 2.0**-15 * 64 / exact["length"].min()  # Σ_i g_i · p_ij · scale, through the normalisation
    assert (exact["weight"] - filtered["weight"]).norm(dim=1).max() < largest
    assert relative_error(filtered["embeddings"], exact["embeddings"].double()) < 1e-4


def test_filtering_without_kernels_is_an_error():
    with pytest.raises(ValueError, match="filter_gradients=True is out of range: it has to be False unless"):
        PartialFC(build_loss("arcface"), 8, 20, filter_gradients=True)


# ---- memory and state


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("loss", ["normface", "npcface"])
def test_it_does_not_matter_what_memory_held_before(small, monkeypatch, loss, precision):
    def run() -> dict:
        head = PartialFC(build_loss(loss), 8, 40, precision=precision, kernels=True)
        return step(head, *data(Case(Variant(loss), "stream", (21,), num_classes=40)))

    expected = run()

    fill_new_memory(monkeypatch)
    for name, value in run().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("variant", KINDS, ids=str)
def test_a_graph_can_be_differentiated_twice(small, variant):
    case = Case(variant, "stream", (12,), kernels=True)
    head, (embeddings, labels) = make_head(case), data(case)
    inputs = embeddings.requires_grad_(), head.weight
    loss = head(embeddings, labels)
    first = [gradient.clone() for gradient in torch.autograd.grad(loss, inputs, retain_graph=True)]
    for gradient, expected in zip(torch.autograd.grad(loss, inputs), first):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_gradient_is_of_the_state_that_its_forward_pass_had(small):
    cases = [Case(Variant("curricularface"), "stream", (12,), seed=seed) for seed in (1, 2)]
    apart, together = (
        PartialFC(build_loss("curricularface", t_alpha=0.5), 8, 23, kernels=True) for _ in range(2)
    )
    for case in cases:
        apart(*data(case)).backward()
    sum(together(*data(case)) for case in cases).backward()
    torch.testing.assert_close(together.weight.grad, apart.weight.grad)


@pytest.mark.parametrize("variant", KINDS, ids=str)
def test_an_adversarial_pass_gives_the_input_gradient_and_no_other(small, variant):
    case = Case(variant, "stream", (12,), kernels=True)
    head, (embeddings, labels) = make_head(case), data(case)
    expected = step(make_head(case).eval(), embeddings, labels)
    attacked = embeddings.clone().requires_grad_()
    with head.eval().only_input_gradient():
        head(attacked, labels).backward()
    assert all(parameter.grad is None for parameter in head.parameters())
    torch.testing.assert_close(attacked.grad, expected["embeddings"], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_a_number_that_is_none_is_not_hidden(small):
    head = PartialFC(build_loss("arcface"), 8, 40, kernels=True)
    embeddings, labels = data(Case(Variant("arcface"), "stream", (12,), num_classes=40))
    head.weight.data[39, 3] = math.nan
    result = step(head, embeddings, labels)
    assert result["loss"].isnan()
    assert result["embeddings"].isnan().any()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_centres_without_a_direction_have_cosines_of_0_and_no_gradient(small):
    results = []
    for kernels in (True, False):
        head = PartialFC(build_loss("normface"), 8, 40, kernels=kernels)
        head.weight.data[5] = 0
        head.weight.data[6] = 1e25  # its squares overflow
        results.append(step(head, *data(Case(Variant("normface"), "stream", (12,), num_classes=40))))
    got, expected = results
    assert not got["weight"][[5, 6]].any()
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


# ---- when they are used


def test_nothing_changes_where_they_are_not_used():
    """ "auto" is off until a card has a measured row; this machine has none anyway."""
    assert not choice.MEASURED
    case = Case(Variant("curricularface"), "stream", (12,))
    off, auto = make_head(case), make_head(case)
    auto.kernels = "auto"
    expected, got = (step(head, *data(case)) for head in (off, auto))
    assert all(torch.equal(value, expected[name]) for name, value in got.items())


@pytest.mark.parametrize(
    ("loss", "card", "precision", "triton", "expected"),
    [
        ("cosface", (9, 0), "bf16", True, True),
        ("cosface", (8, 0), "bf16", True, False),
        ("cosface", (9, 0), "fp16", True, False),
        ("cosface", (9, 0), "bf16", False, False),
        ("sphereface2", (9, 0), "bf16", True, False),
    ],
)
def test_auto_means_on_where_a_row_is_measured_and_they_can_run(
    loss, card, precision, triton, expected, monkeypatch
):
    monkeypatch.setattr(choice, "MEASURED", {((9, 0), "bf16")})
    monkeypatch.setattr(choice, "has_triton", lambda: triton)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card)
    raw = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    assert choice.use_kernels("auto", build_loss(loss), raw, precision) is expected


class Cubed(type(build_loss("mv_softmax"))):
    """A loss with the kernel of its parent, and a formula of its own."""

    def other_logits(self, cos, own_cos, norms, statistics):
        return self.scale * cos**3


class OtherMargin(type(build_loss("mv_softmax"))):
    """Only the own class's logit is another: the kernel of the others is still right."""

    def own_logit(self, own_cos, norms):
        return self.scale * (own_cos - 0.1)


def test_a_subclass_with_a_formula_of_its_own_has_no_kernel():
    assert not choice.has_kernel(Cubed())
    assert choice.has_kernel(OtherMargin())
    with pytest.raises(ValueError, match="the others' logits of Cubed have no Triton function"):
        PartialFC(Cubed(), 8, 5, kernels=True)


def test_the_centres_of_a_sampled_step_are_let_go_after_the_backward_pass():
    """A loss lives until the next one is computed; a copy of half the centres must not."""
    case = Case(Variant("cosface"), "stream", (12,))
    head = make_head(case)
    head.kernels, head.sample_rate = True, 0.5
    embeddings, labels = data(case)[:2]
    seen = []
    real = KernelClasses.forward

    def watched(ctx, left, norms, weight, *rest):
        seen.append(weakref.ref(weight))
        return real(ctx, left, norms, weight, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KernelClasses, "forward", staticmethod(watched))
        loss = head(embeddings.requires_grad_(), labels)
        loss.backward()
    gc.collect()
    (weight,) = seen
    assert weight() is None
    assert loss.isfinite()


class Unusual(MarginLoss):
    moves_others = True

    def other_logits(self, cos, own_cos, norms, statistics):
        return self.scale * cos.abs()


@pytest.mark.parametrize(
    ("loss", "given", "message"),
    [
        ("arcface", {"kernels": "on"}, "kernels='on' is out of range: it has to be True, False or 'auto'"),
        ("arcface", {"kernels": True, "engine": "dense"}, "would be ignored with engine='dense'"),
        ("sphereface2", {"kernels": True}, "the others' logits of SphereFace2 have no Triton function"),
    ],
)
def test_what_cannot_be_is_an_error_of_one_line(loss, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PartialFC(build_loss(loss), 8, 20, **given)


def test_an_unusual_loss_runs_in_pytorch_unless_kernels_are_demanded():
    PartialFC(Unusual(), 8, 20, kernels="auto")(torch.ones(2, 8), torch.tensor([1, 2])).backward()
    with pytest.raises(ValueError, match="the others' logits of Unusual have no Triton function"):
        PartialFC(Unusual(), 8, 20, kernels=True)


def test_a_cpu_without_the_interpreter_is_an_error_of_one_line(monkeypatch):
    head = PartialFC(build_loss("arcface"), 8, 20, kernels=True)
    batch = torch.ones(2, 8), torch.tensor([1, 2])
    monkeypatch.setattr("triton.knobs.runtime.interpret", False)
    with pytest.raises(ValueError, match=r"^kernels=True needs a GPU \(or, for tests, TRITON_INTERPRET=1"):
        head(*batch)
    with pytest.raises(ValueError, match=r"class centres of torch.float64; allowed is float32"):
        head.double()(batch[0].double(), batch[1])


def test_an_installation_without_triton_trains_and_says_nothing():
    """The import of triton fails here, as it does where it is not installed."""
    script = """
import sys
sys.modules["triton"] = None
import torch
from losses import build_loss
from partial_fc import PartialFC
PartialFC(build_loss("curricularface"), 8, 20)(torch.randn(4, 8), torch.arange(4)).backward()
try:
    PartialFC(build_loss("arcface"), 8, 20, kernels=True)
except ValueError as error:
    assert "needs the package triton" in str(error), error
else:
    raise AssertionError("kernels=True without triton is an error")
"""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("capability", [(9, 0), (8, 9), (8, 0), (7, 5)])
@pytest.mark.parametrize("size", [64, 200, 512, 1024, 2048])
def test_a_tile_fits_on_the_chip_of_the_card(capability, size):
    """A tile of classes and the samples of all stages; where not even the smallest fit, a line says so."""
    room = SHARED_KIB.get(capability, SHARED_KIB_ELSEWHERE) * 1024
    for dtype in (torch.float16, torch.float32):
        if 32 * padded(size) * dtype.itemsize > room:
            with pytest.raises(
                ValueError, match=f"embedding_size={size} .* does not fit on this card's chip"
            ):
                tiles_on(capability, dtype, size)
            continue
        tiles = tiles_on(capability, dtype, size)
        numbers = (tiles.classes + tiles.samples * tiles.stages) * padded(size)
        assert numbers * dtype.itemsize <= room
        assert min(tiles.classes, tiles.samples) >= 16
