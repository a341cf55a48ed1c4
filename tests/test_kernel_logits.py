"""The Triton function of a loss is its torch formula, with its derivatives, over a grid of cosines."""

import pytest
import torch
import triton
import triton.language as tl

from classifier.kernels.choice import has_kernel
from helpers.loss_references import VARIANTS
from losses import LOSSES, kernel_logits
from losses.base import KernelInputs
from utils.buffers import exchanged

OWN_COS = torch.linspace(-0.95, 0.98, 9)
NORMS = torch.linspace(0.5, 40, 9)
COS = torch.cat([torch.linspace(-0.999, 0.999, 1021), torch.tensor([-1.0, 0.0, 1.0])])  # 1,024
WITH_FUNCTION = [v for v in VARIANTS if LOSSES[v.name].kernel and v.make()[0].moves_others]


@triton.jit
def evaluate(cos, row, scalar, out, scale, a, b, LOGIT: tl.constexpr, N: tl.constexpr):
    """What a function returns for one sample, its four results below each other."""
    sample = tl.program_id(0)
    columns = tl.arange(0, N)
    values = LOGIT(tl.load(cos + columns), tl.load(row + sample), tl.load(scalar), scale, a, b)
    for i in tl.static_range(4):
        tl.store(out + (sample * 4 + i) * N + columns, values[i])


@triton.jit
def evaluate_statistics(cos, row, out, STATISTICS: tl.constexpr, N: tl.constexpr):
    sample = tl.program_id(0)
    columns = tl.arange(0, N)
    first, second = STATISTICS(tl.load(cos + columns), tl.load(row + sample))
    tl.store(out + sample * 2 * N + columns, first)
    tl.store(out + (sample * 2 + 1) * N + columns, second)


def by_kernel(function, inputs: KernelInputs) -> torch.Tensor:
    """`(samples, 4, cosines)`."""
    out = torch.empty(len(OWN_COS), 4, len(COS))
    row = torch.zeros(len(OWN_COS)) if inputs.row is None else inputs.row.detach().contiguous()
    scalar = torch.zeros(()) if inputs.scalar is None else inputs.scalar.detach()
    evaluate[(len(OWN_COS),)](COS, row, scalar, out, *inputs.constants, LOGIT=function, N=len(COS))
    return out


@pytest.mark.parametrize("variant", WITH_FUNCTION, ids=str)
def test_function_and_formula_agree_in_value_and_all_derivatives(variant):
    loss = variant.make()[0]
    loss.prepare(500)
    loss.update_state(OWN_COS, NORMS)
    vectors = [vector.clone().requires_grad_() for vector in (OWN_COS, NORMS)]
    inputs = loss.kernel_inputs(*vectors, {})
    got = by_kernel(getattr(kernel_logits, loss.kernel), inputs)
    z, slope, by_row, by_scalar = got.double().unbind(1)
    row_slopes = [torch.zeros(len(OWN_COS))] * 2  # of the row, by own_cos and norm
    if inputs.row is not None and inputs.row.requires_grad:
        row_slopes = torch.autograd.grad(inputs.row.sum(), vectors, materialize_grads=True)

    expected = formula(loss.double())
    got = {"logit": z, "cos": slope, "own_cos": by_row * row_slopes[0][:, None]}
    got |= {"norm": by_row * row_slopes[1][:, None], "parameter": by_scalar}
    branch = torch.full((1,), -2.0) if inputs.row is None else inputs.row.detach()
    off_the_branch = ((COS - branch[:, None]).abs() > 1e-6).expand_as(z)  # rounding decides which side it is
    for name, value in expected.items():
        value, other = (where[off_the_branch] for where in (value, got[name]))
        torch.testing.assert_close(other, value, rtol=2e-5, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def formula(loss) -> dict[str, torch.Tensor]:
    """The logit and its derivative by each input, at each (sample, cosine), in float64, by autograd."""
    shape = len(OWN_COS), len(COS)
    cos, own_cos, norms = (
        values.double().expand(shape).clone().requires_grad_()
        for values in (COS, OWN_COS[:, None], NORMS[:, None])
    )
    learnt = {n: p.detach().expand(shape).clone().requires_grad_() for n, p in loss.named_parameters()}
    with exchanged(loss, learnt):
        z = loss.other_logits(cos, own_cos, norms, {})
    sources = dict(cos=cos, own_cos=own_cos, norm=norms, parameter=next(iter(learnt.values()), None))
    inputs = [source for source in sources.values() if source is not None]
    grads = torch.autograd.grad(z, inputs, torch.ones_like(z), materialize_grads=True)
    return {"logit": z.detach(), "parameter": torch.zeros_like(z), **dict(zip(sources, grads))}


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.make()[0].has_row_statistics], ids=str)
def test_row_statistics_and_their_function_agree(variant):
    loss = variant.make()[0]
    row = loss.kernel_inputs(OWN_COS, NORMS, {}).row.contiguous()
    terms = loss.row_statistics(COS, OWN_COS[:, None], NORMS[:, None])
    out = torch.empty(len(OWN_COS), 2, len(COS))
    evaluate_statistics[(len(OWN_COS),)](
        COS, row, out, STATISTICS=getattr(kernel_logits, loss.kernel_statistics), N=len(COS)
    )
    for (name, (term, kind)), values in zip(terms.items(), out.unbind(1)):
        assert kind == "sum"
        torch.testing.assert_close(values, term.float(), msg=lambda m, n=name: f"{n}: {m}")


def test_the_losses_that_move_others_have_a_function_but_for_one():
    without = {v.name for v in VARIANTS if not has_kernel(v.make()[0])}
    assert without == {"sphereface2"}
