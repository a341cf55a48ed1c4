"""Losses with parameters of their own, and losses that draw at random: what PartialFC promises them."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers.interface_losses import Drawing, Learning
from losses import build_loss, build_regularizer
from losses.base import MarginLoss, Regularizer
from losses.binary import inverse_log_softplus, log_softplus
from partial_fc import PartialFC
from training.optimizer import build_optimizer, make_scaler
from training.training_state import TrainingState

ENGINES = ("dense", "stream")
CONFIG = SimpleNamespace(
    optimizer="sgd", momentum=0.9, weight_decay=0.1, no_decay_norm_bias=True, sampled_update="sparse"
)


def batch(size: int = 12, num_classes: int = 20):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (size,), generator=generator)
    return 5 * torch.randn(size, 8, generator=generator), labels


def seen_draws(head: PartialFC) -> list[torch.Tensor]:
    """The margins of each forward pass from now on."""
    seen = []
    own_logit = head.loss.own_logit

    def record(own_cos, norms, statistics):
        seen.append(statistics["margin"].clone())
        return own_logit(own_cos, norms, statistics)

    head.loss.own_logit = record
    return seen


# ---- random numbers


def test_draws_follow_from_seed_step_and_micro_batch():
    head, again, other_seed = (PartialFC(Drawing(), 8, 20, seed=seed) for seed in (3, 3, 4))
    seen, seen_again, seen_other = (seen_draws(h) for h in (head, again, other_seed))
    for step in (0, 1):
        head.set_progress(step, 0, 1)
        other_seed.set_progress(step, 0, 1)
        for _ in range(2):
            head(*batch())
            other_seed(*batch())
    assert len({tuple(margins.tolist()) for margins in [*seen, *seen_other]}) == 8
    again.set_progress(1, 0, 1)  # a resumed run
    again(*batch())
    assert torch.equal(seen_again[0], seen[2])


def test_the_adversarial_pass_and_evaluation_see_the_draw_of_the_step_and_move_nothing_on():
    head = PartialFC(Drawing(), 8, 20)
    seen = seen_draws(head)
    head.set_progress(5, 0, 1)
    with head.only_input_gradient():
        head(*batch())
    with torch.no_grad():
        head(*batch())
    head(*batch())
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[2])
    head(*batch())  # the next micro-batch
    assert not torch.equal(seen[3], seen[2])


def test_without_progress_each_forward_pass_draws_anew_and_a_loaded_state_goes_on():
    head, loaded = PartialFC(Drawing(), 8, 20), PartialFC(Drawing(), 8, 20)
    seen, seen_loaded = seen_draws(head), seen_draws(loaded)
    for _ in range(2):
        head(*batch())
    loaded.load_state_dict(head.state_dict())
    head(*batch())
    loaded(*batch())
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen_loaded[0], seen[2])


def test_torchs_own_generator_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    PartialFC(build_loss("elasticface"), 8, 20)(*batch())
    assert torch.equal(torch.rand(3), expected)


def test_a_draw_of_another_shape_is_an_error():
    class PerClass(Drawing):
        def draw(self, generator, batch_size):
            return {"margin": torch.rand(batch_size, 2, generator=generator)}

    with pytest.raises(ValueError, match=r"PerClass.draw: 'margin' has shape \(12, 2\), .*\(12,\)"):
        PartialFC(PerClass(), 8, 20)(*batch())


def test_elasticface_margins_are_normal_and_clipped():
    loss = build_loss("elasticface", m=0.5, std=0.05)
    margins = loss.draw(torch.Generator().manual_seed(0), 100_000)["margin"]
    assert margins.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert margins.std().item() == pytest.approx(0.05, rel=0.01)
    for kind, highest in (("arc", math.pi / 2), ("cos", math.inf)):
        wild = build_loss("elasticface", kind=kind, std=5.0).draw(torch.Generator(), 1000)["margin"]
        assert wild.min() == 0
        assert wild.max() <= highest


def test_elasticface_plus_gives_the_hardest_sample_the_largest_margin():
    loss = build_loss("elasticface", kind="cos", plus=True, s=1.0)
    own_cos, margin = torch.tensor([0.9, -0.2, 0.5]), torch.tensor([0.1, 0.2, 0.3])
    got = own_cos - loss.own_logit(own_cos, None, {"margin": margin})
    torch.testing.assert_close(got, torch.tensor([0.1, 0.3, 0.2]))


# ---- parameters


@pytest.mark.parametrize("name", ["uniface", "sphereface2"])
@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_move_with_the_optimiser_and_without_decay(engine, name):
    head = PartialFC(build_loss(name), 8, 20, engine=engine)
    optimizer = build_optimizer(CONFIG, nn.Linear(2, 2), head, lr=0.01)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups["loss"]["params"] == [head.loss.bias]
    assert groups["loss"]["weight_decay"] == 0
    before = head.loss.bias.item()
    head(*batch()).backward()
    gradient = head.loss.bias.grad.item()
    optimizer.step()
    assert gradient != 0
    assert head.loss.bias.item() == pytest.approx(before - 0.01 * gradient)
    assert head.last_terms["bias"].item() == pytest.approx(before)


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_get_no_gradient_and_the_others_the_same(engine):
    whole, part = (PartialFC(Learning(), 8, 20, engine=engine, chunk_size=6) for _ in range(2))
    part.loss.slope.requires_grad_(False)
    for head in (whole, part):
        head(*batch()).backward()
    assert part.loss.slope.grad is None
    torch.testing.assert_close(part.loss.margin.grad, whole.loss.margin.grad)
    torch.testing.assert_close(part.weight.grad, whole.weight.grad)


@pytest.mark.parametrize("loss", [Learning, Drawing])
def test_a_resumed_run_goes_on_bit_for_bit(loss, tmp_path):
    def make():
        torch.manual_seed(0)
        backbone, head = nn.Linear(4, 8), PartialFC(loss(), 8, 20, chunk_size=6)
        optimizer = build_optimizer(CONFIG, backbone, head, lr=0.01)
        return (
            backbone,
            head,
            optimizer,
            TrainingState(backbone, head, optimizer, make_scaler("fp32", torch.device("cpu"))),
        )

    def train(state, steps):
        backbone, head, optimizer, _ = state
        for step in steps:
            head.set_progress(step, 0, 1)
            images = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
            head(backbone(images), torch.arange(6)).backward()
            optimizer.step()
            optimizer.zero_grad()

    straight, stopped, resumed = make(), make(), make()
    train(straight, range(4))
    train(stopped, range(2))
    stopped[3].save(tmp_path, 2)
    resumed[3].load(tmp_path, 2)
    train(resumed, range(2, 4))
    for a, b in zip(straight[1].parameters(), resumed[1].parameters()):
        assert torch.equal(a, b)


def test_parameters_that_moved_between_forward_and_backward_are_an_error_and_no_wrong_gradient():
    head = PartialFC(Learning(), 8, 20, chunk_size=6)
    expected = torch.autograd.grad(head(*batch()), head.loss.margin)[0]
    loss = head(*batch())
    head.loss.margin.detach().add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    head.loss.margin.detach().sub_(1.0)
    torch.testing.assert_close(torch.autograd.grad(head(*batch()), head.loss.margin)[0], expected)


# ---- thresholds of the binary losses


@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_uniface_starts_from_a_threshold_that_all_other_classes_together_hardly_reach(sample_rate):
    head = PartialFC(build_loss("uniface"), 8, 1000, sample_rate=sample_rate)
    assert head.loss.bias.item() == pytest.approx(math.log(10 * 1000 * sample_rate))
    assert PartialFC(build_loss("uniface", initial_bias=2.5), 8, 1000).loss.bias.item() == 2.5


@pytest.mark.parametrize("hyper", [{}, {"kind": "arc"}, {"kind": "mult", "m": 1.5}, {"alpha": 0.2, "t": 1.0}])
@pytest.mark.parametrize("num_classes", [2, 1000])
def test_sphereface2_starts_where_nothing_pulls_at_the_bias(num_classes, hyper):
    loss = build_loss("sphereface2", **hyper).double()
    loss.prepare(num_classes)
    zero = torch.zeros(1, dtype=torch.float64)
    others = loss.other_logits(zero.expand(1, num_classes - 1), zero[:, None], zero[:, None], {})
    loss.per_sample(loss.own_logit(zero, zero, {}), others.logsumexp(1), zero).backward()
    size = loss.own_weight + loss.others_weight
    assert abs(loss.bias.grad.item()) < 1e-5 * size  # the bias itself is a float32


def test_log_softplus_and_its_inverse_keep_their_digits():
    z = torch.linspace(-200, 80, 10_001, dtype=torch.float64, requires_grad=True)
    value = log_softplus(z)
    exact = torch.where(z < -30, z, torch.log1p(z.clamp(-30, 700).exp()).log())
    torch.testing.assert_close(value, exact, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(value.sum(), z)
    sigmoid, softplus = z.sigmoid(), torch.nn.functional.softplus(z, threshold=40)
    torch.testing.assert_close(slope, torch.where(z < -30, 1, sigmoid / softplus), rtol=1e-9, atol=1e-9)
    inside = z.detach()[z < 33]
    torch.testing.assert_close(inverse_log_softplus(log_softplus(inside)), inside, rtol=1e-6, atol=1e-6)
    low = log_softplus(torch.tensor([-150.0, -88.0, -20.0]))
    torch.testing.assert_close(low, torch.tensor([-150.0, -88.0, -20.0]))


# ---- declarations


def test_a_loss_that_moves_the_others_has_to_say_so():
    class Undeclared(MarginLoss):
        def other_logits(self, cos, own_cos, norms, statistics):
            return self.scale * cos.relu()

    with pytest.raises(ValueError, match=r"Undeclared\.other_logits is not scale"):
        PartialFC(Undeclared(), 8, 20)


class Scaled(MarginLoss):
    """Learns its scale."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))


class ScaledByProperty(MarginLoss):
    """Learns the logarithm of its scale."""

    def __init__(self):
        super().__init__()
        del self.scale
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def __getattr__(self, name):
        return self.log_scale.exp() if name == "scale" else super().__getattr__(name)


class BiasFromZero(MarginLoss):
    """As long as its bias is 0 the logits are scale · cos."""

    def __init__(self):
        super().__init__(s=8.0)
        self.bias = nn.Parameter(torch.tensor(0.0))

    def other_logits(self, cos, own_cos, norms, statistics):
        return self.scale * cos + self.bias


@pytest.mark.parametrize("loss", [Scaled, ScaledByProperty, BiasFromZero])
def test_a_loss_whose_other_logits_read_a_parameter_has_to_say_so(loss):
    with pytest.raises(ValueError, match=f"{loss.__name__}.other_logits reads a parameter"):
        PartialFC(loss(), 8, 20)
    declared = type(loss.__name__, (loss,), {"moves_others": True})
    gradients = []
    for engine in ENGINES:
        head = PartialFC(declared(), 8, 20, engine=engine)
        head(*batch()).backward()
        gradients.append([p.grad for p in head.loss.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_module_under_two_names_goes_on_learning(engine):
    class Shared(MarginLoss):
        moves_others = True

        def __init__(self):
            super().__init__(s=8.0)
            self.one = self.two = nn.Linear(1, 1)

        def other_logits(self, cos, own_cos, norms, statistics):
            return self.scale * cos + self.two(self.one(own_cos))

    head = PartialFC(Shared(), 8, 20, engine=engine)
    before = list(head.loss.parameters())
    head(*batch()).backward()
    assert all(a is b and b.grad is not None for a, b in zip(before, head.loss.parameters()))
    assert head.loss.one.weight is head.loss.two.weight is before[0]


def test_a_loss_with_row_statistics_has_to_say_so():
    class Undeclared(MarginLoss):
        def row_statistics(self, cos, own_cos, norms):
            return {"top": (cos, "max")}

    with pytest.raises(ValueError, match="Undeclared has row_statistics: set has_row_statistics = True"):
        PartialFC(Undeclared(), 8, 20)


# ---- what else a step promises


def test_an_inner_pass_for_the_input_alone_does_not_end_the_outer_one():
    head = PartialFC(Learning(), 8, 20)
    with head.only_input_gradient():
        with head.only_input_gradient():
            pass
        head(batch()[0].requires_grad_(), batch()[1]).backward()
    assert all(parameter.grad is None for parameter in head.parameters())
    assert all(parameter.requires_grad for parameter in head.parameters())


def test_a_regularizer_without_rows_sees_none():
    seen = []

    class Spy(Regularizer):
        def forward(self, batch):
            seen.append(batch.own_rows)
            return batch.norms.sum() * 0

    for order in ([build_regularizer("center"), Spy()], [Spy(), build_regularizer("center")]):
        PartialFC(build_loss("cosface"), 8, 20, regularizers=order)(*batch())
    assert seen == [None, None]


@pytest.mark.parametrize("name", ["center", "disc", "ndr"])
@pytest.mark.parametrize("size", [1e20, 3e38])
def test_an_embedding_beyond_float32_gives_a_finite_term(name, size):
    hyper = {"ramp": None} if name == "ndr" else {}
    head = PartialFC(build_loss("cosface"), 8, 20, regularizers=[build_regularizer(name, **hyper)])
    embeddings, labels = batch()
    embeddings[2] = size
    embeddings.requires_grad_()
    loss = head(embeddings, labels)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()


def test_whole_numbers_and_choices_may_be_drawn():
    class Chooses(MarginLoss):
        def draw(self, generator, batch_size):
            return {"keep": torch.rand(batch_size, generator=generator) < 0.5}

        def own_logit(self, own_cos, norms, statistics):
            return self.scale * torch.where(statistics["keep"], own_cos, own_cos - 0.2)

    assert PartialFC(Chooses(), 8, 20)(*batch()).isfinite()


def test_centres_in_half_precision_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"class centres of torch.float16.*set precision"):
        PartialFC(build_loss("cosface"), 8, 20).half()(*batch())
