"""Losses by name: settings, shape of the curve, derivatives, and finite numbers at the borders."""

import inspect
import itertools
import math

import pytest
import torch
from torch.func import functional_call

from helpers.loss_references import REFERENCES, VARIANTS, Variant
from losses import LOSSES, build_loss, build_regularizer
from partial_fc import PartialFC

ENGINES = ("dense", "stream")

# Another value for each setting, of all losses or of one, with what has to be set beside it to matter.
OTHER_VALUES = {
    "s": (20.0, {}),
    "m": (0.3, {}),
    "focal": (2.0, {}),
    "easy_margin": (True, {}),
    "gradient": ("straight_through", {}),
    "margin_list": ((1.1, 0.3, 0.1), {}),
    "interclass_filtering_threshold": (0.2, {}),
    "interclass_filtering": ("zero", {"interclass_filtering_threshold": 0.2}),
    ("sphereface", "m"): (3.0, {}),
    "lambda_start": (2000.0, {}),
    "lambda_rate": (0.3, {}),
    "lambda_min": (200.0, {}),
    "kind": ("arc", {}),
    "t": (1.5, {}),
    "t0": (0.5, {}),
    "t_alpha": (0.5, {}),
    "m0": (0.3, {}),
    "m1": (0.4, {}),
    "a": (0.1, {}),
    "m_hard": (0.1, {}),
    "gamma": (64.0, {}),
    "h": (0.5, {}),
    "eps": (0.5, {"t_alpha": 1.0}),
    "initial_mean": (10.0, {}),
    "initial_std": (50.0, {}),
    "keep_gradient": (True, {"t_alpha": 1.0, "h": 10.0}),
    "l_a": (5.0, {}),
    "u_a": (50.0, {}),
    "l_margin": (0.3, {}),
    "u_margin": (1.2, {"l_a": 1.0}),
    "lambda_g": (40.0, {}),
    ("elasticface", "kind"): ("cos", {}),
    "std": (0.2, {}),
    "plus": (True, {"std": 0.2}),
    "others_weight": (0.5, {}),
    "initial_bias": (1.0, {}),
    ("sphereface2", "t"): (2.0, {}),
    "alpha": (0.5, {}),
    "weight": (20.0, {}),
}

OUT_OF_RANGE = {
    "s": [0.0, -1.0, math.nan, math.inf, "64", None, True],
    "m": [-0.1, math.nan, math.inf, "0.5"],
    "focal": [-1.0, math.inf],
    "gradient": ["exakt"],
    "margin_list": [
        *((1.0, 0.5), (0.9, 0.0, 0.0), (1.0, -0.1, 0.0), (1.0, 3.2, 0.0), (1.0, 0.0, -0.4)),
        *((math.inf, 0.0, 0.0), (1.0, 0.0, math.inf), (1.0, 0.0, "m"), 0.5),
    ],
    "interclass_filtering_threshold": [-0.1, 1.0],
    "interclass_filtering": ["drop"],
    "easy_margin": ["no", 1],
    ("sphereface", "m"): [0.5, math.inf, math.nan],
    "lambda_start": [-1.0, math.inf],
    "lambda_rate": [-0.1, math.nan],
    "lambda_min": [-5.0, math.inf],
    "kind": ["arcs"],
    "t": [0.9, math.nan, math.inf],
    "t0": [1.5],
    "t_alpha": [0.0, 1.1],
    "m0": [-0.1, 2.0],
    "m1": [-0.1, 1.5],
    "a": [-0.1, math.inf],
    "m_hard": [-0.1, 2.0],
    ("circle", "m"): [-0.1, 1.0],
    "gamma": [0.0, math.nan, math.inf],
    "h": [0.0, math.inf],
    "eps": [0.0, 2.0],
    "initial_mean": [-1.0, math.inf],
    "initial_std": [-1.0, math.inf],
    "keep_gradient": ["false", None],
    "l_a": [0.0, 110.0],
    "u_a": [5.0, math.inf],
    "l_margin": [-0.1, 0.9],
    "u_margin": [-0.1, 0.3, 2.0],
    "lambda_g": [-1.0],
    "std": [-0.1, math.inf, math.nan],
    "plus": ["yes", 1],
    "others_weight": [0.0, -1.0, math.inf],
    "initial_bias": [math.inf, math.nan, "0"],
    ("sphereface2", "kind"): ["angle"],
    ("sphereface2", "m"): [-0.1, math.inf, math.nan],
    "alpha": [0.0, 1.0, math.nan],
    "weight": [0.0, math.inf],
}

SETTINGS = [(name, key) for name, loss in LOSSES.items() for key in inspect.signature(loss).parameters]


def make_head(variant: Variant, num_classes: int = 7, engine: str = "stream", **settings) -> PartialFC:
    settings = {"chunk_size": 3, **settings}
    return PartialFC(build_loss(variant.name, **variant.hyper), 4, num_classes, engine=engine, **settings)


def loss_and_gradients(head: PartialFC, embeddings: torch.Tensor, labels: torch.Tensor):
    embeddings = embeddings.clone().requires_grad_()
    head.weight.grad = None
    loss = head(embeddings, labels)
    loss.backward()
    return loss.detach(), embeddings.grad, head.weight.grad


def batch(seed: int = 0, size: int = 6, num_classes: int = 7, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    embeddings = 3 * torch.randn(size, 4, generator=generator, dtype=torch.float64)
    return embeddings.to(dtype), torch.randint(num_classes, (size,), generator=generator)


def test_every_loss_has_a_reference_and_a_variant_with_its_defaults():
    where = "see REFERENCES and VARIANTS in tests/helpers/loss_references.py"
    assert set(REFERENCES) == set(LOSSES), where
    assert {variant.name for variant in VARIANTS if not variant.hyper} == set(LOSSES), where
    for name, reference in REFERENCES.items():
        defaults = {k: p.default for k, p in inspect.signature(LOSSES[name]).parameters.items()}
        settings = list(inspect.signature(reference).parameters.values())[3:]
        assert defaults == {p.name: p.default for p in settings if p.kind is not p.KEYWORD_ONLY}


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_every_setting_changes_the_loss_or_its_gradient(name, key):
    value, beside = OTHER_VALUES.get((name, key)) or OTHER_VALUES[key]
    results = []
    for hyper in (beside, {**beside, key: value}):
        head = make_head(Variant(name, hyper))
        head.set_progress(100, 1, 10)
        head.weight.data *= 100  # so that softmax is far from uniform too
        embeddings, labels = batch(size=12)
        embeddings[:6] += (
            5 * head.weight[labels[:6]]
        )  # half of them easy, for focal; half hard, for the margins
        results.append(loss_and_gradients(head, embeddings.detach(), labels))
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(*results))


@pytest.mark.parametrize(("name", "key"), SETTINGS)
def test_a_setting_out_of_range_or_type_is_an_error_that_names_loss_setting_and_value(name, key):
    for value in OUT_OF_RANGE.get((name, key), OUT_OF_RANGE[key]):
        with pytest.raises(ValueError, match="it has to be ") as error:
            build_loss(name, **{key: value})
        shown = str(error.value)
        assert name in shown
        assert key in shown
        assert repr(value) in shown or any(repr(part) in shown for part in value)


def test_an_unknown_name_is_answered_with_the_near_miss():
    with pytest.raises(ValueError, match="'arcfase'; did you mean 'arcface'"):
        build_loss("arcfase")
    with pytest.raises(ValueError, match=r"'cosface' has no setting 'margin'.*it has: s, m, focal"):
        build_loss("cosface", margin=0.4)
    with pytest.raises(ValueError, match="'easy_margn'; did you mean 'easy_margin'"):
        build_loss("arcface", easy_margn=True)
    with pytest.raises(ValueError, match="unknown regularizer 'ndrr'"):
        build_regularizer("ndrr")


def own_logits(loss, cos: torch.Tensor, norm: float) -> torch.Tensor:
    """With the mean of what the loss draws, and 0 for what it reduces over a row."""
    norms = torch.full_like(cos, norm)
    statistics = loss.row_statistics(cos[:, None], cos[:, None], norms[:, None])
    draws = loss.draw(torch.Generator().manual_seed(0), 10_000)
    means = {name: torch.full_like(cos, values.mean().item()) for name, values in draws.items()}
    return loss.own_logit(cos, norms, {name: torch.zeros_like(cos) for name in statistics} | means)


@pytest.mark.parametrize("norm", [0.5, 20.0, 200.0])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_own_logit_never_falls_when_the_cosine_rises_but_for_steps_that_its_paper_makes(variant, norm):
    cos = torch.linspace(-1, 1, 40001, dtype=torch.float64)
    logits = own_logits(build_loss(variant.name, **variant.hyper), cos, norm)
    assert variant.falls or (logits.diff() < -1e-9).sum() == variant.steps_down
    assert logits[-1] > logits[0] + 1


@pytest.mark.parametrize("m", [0.05, 0.5, 1.0, 1.5])
def test_arcface_is_monotone_for_every_margin_that_it_accepts(m):
    cos = torch.linspace(-1, 1, 40001, dtype=torch.float64)
    for loss in (build_loss("arcface", m=m), build_loss("combined", margin_list=(1.0, m, 0.0))):
        assert (own_logits(loss, cos, 1.0).diff() >= -1e-9).all()


@pytest.mark.parametrize("m", [2.5, 3.0])
def test_a_margin_that_would_break_monotony_is_refused(m):
    for make in (
        lambda: build_loss("arcface", m=m),
        lambda: build_loss("combined", margin_list=(1.0, m, 0.0)),
    ):
        with pytest.raises(ValueError, match=r"out of range"):
            make()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.derivative], ids=str)
def test_gradient_is_the_derivative(variant, engine):
    head = make_head(variant, engine=engine).double().eval()
    embeddings, labels = batch(seed=3, size=4, dtype=torch.float64)
    weight = torch.randn(7, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def loss(embeddings, weight):
        return functional_call(head, {"weight": weight}, (embeddings, labels))

    inputs = embeddings.requires_grad_(), weight.requires_grad_()
    # A second backward pass through one graph recomputes what the first one kept: equal but for rounding.
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-6, rtol=1e-5, nondet_tol=1e-10)


def at_the_borders() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centres, embeddings and labels: cos = ±1, also by rounding; no direction; huge and tiny lengths."""
    centres = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))
    centres[5] = 0
    centres[6] = 1e-20
    embeddings = torch.stack(
        [
            centres[0],  # cos = 1
            -centres[1],  # cos = −1
            centres[2] * 1e10,  # cos = 1, huge
            torch.zeros(4),  # no direction
            centres[4] * 1e-30,  # hardly any
            centres[0],  # its own centre is zero
            centres[1],  # and here nearly so
            torch.tensor([1e10, -1e10, 1e10, 1e10]),
            torch.tensor([1e30, -1e30, 1e30, 1e30]),  # float32 cannot hold its length
        ]
    )
    return centres, embeddings, torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_loss_and_gradients_are_finite_at_the_borders(variant, engine):
    centres, embeddings, labels = at_the_borders()
    head = make_head(variant, engine=engine)
    head.weight.data.copy_(centres)
    for sample in [slice(None), *(slice(i, i + 1) for i in range(len(labels)))]:
        for value in loss_and_gradients(head, embeddings[sample], labels[sample]):
            assert value.isfinite().all()
        assert all(value.isfinite() for value in head.loss.state_dict().values())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_two_classes_and_embeddings_of_one_length_give_finite_numbers(variant, engine):
    head = make_head(variant, num_classes=2, engine=engine)
    embeddings, labels = batch(num_classes=2)
    for direction in (embeddings, torch.ones_like(embeddings)):
        for length in (1e-3, 25.0, 1e5):
            equal = length * direction / direction.norm(dim=1, keepdim=True)
            for value in (*loss_and_gradients(head, equal, labels), *head.loss.state_dict().values()):
                assert value.isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.compares], ids=str)
def test_one_class_alone_has_zero_loss_and_no_gradient(variant, engine):
    head = make_head(variant, num_classes=1, engine=engine)
    embeddings, labels = batch(num_classes=1)
    head.loss.lambda_g = 0  # MagFace's term on the norm asks for no class
    loss, grad_embeddings, grad_weight = loss_and_gradients(head, embeddings, labels)
    assert loss == 0
    assert not grad_embeddings.any()
    assert not grad_weight.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("variant", "engine"), list(itertools.product(VARIANTS, ENGINES)), ids=str)
def test_half_precision_embeddings_lose_no_more_than_their_own_rounding(variant, engine, dtype):
    head = make_head(variant, engine=engine)
    half, labels = batch(dtype=dtype)
    loss, grad_embeddings, grad_weight = loss_and_gradients(head, half, labels)
    expected = loss_and_gradients(make_head(variant, engine=engine), half.float(), labels)
    assert loss.dtype == torch.float32
    assert grad_embeddings.dtype == dtype
    torch.testing.assert_close(loss, expected[0])
    torch.testing.assert_close(grad_embeddings, expected[1].to(dtype))
    torch.testing.assert_close(grad_weight, expected[2])


def test_a_loss_shows_its_settings():
    assert repr(build_loss("cosface", m=0.3)) == "CosFace(scale=64.0, focal=0.0, m=0.3)"


@pytest.mark.parametrize("engine", ["dense", "stream"])
def test_a_hopeless_sample_costs_its_full_cross_entropy_and_still_learns(engine):
    head = PartialFC(build_loss("normface", s=64.0), 4, 2, engine=engine)
    head.weight.data.copy_(torch.eye(2, 4))
    embedding = torch.tensor([[-1.0, 0.8, 0.0, 0.0]], requires_grad=True)  # beyond −log(1e-30) = 69
    loss = head(embedding, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(64 * 1.8 / 1.64**0.5, rel=1e-6)
    assert embedding.grad.norm() > 1
