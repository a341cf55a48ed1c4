"""`stream` with its passes over the classes in GPU kernels; the same numbers, collectives and gradients.

Only vectors and matrices over the batch are computed here by PyTorch. docs/classifier.md has the design.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from classifier.kernels.spans import Spans
from classifier.kernels.tiles import tiles_for
from classifier.log_sum import LogSum, own_before_others
from classifier.own_classes import add_own_gradients
from classifier.step import Step
from utils.distributed import sum_together
from utils.unit_vectors import MIN_NORM


class KernelClasses(torch.autograd.Function):
    """`Comparison` and its gradient, without the logits; as `StreamedClasses`."""

    @staticmethod
    def forward(ctx, embeddings, norms, weight, step: Step, keep: bool, *parameters):
        """What `Comparison` holds; with `keep` the memory of the gradient takes products for the way back."""
        loss = step.loss
        own = own_before_others(embeddings, norms, weight, step)
        workspace = torch.empty_like(weight) if keep else None
        tiles = tiles_for(weight.device, step.dtype, weight.shape[1])
        spans = Spans(embeddings * loss.product_scale, weight, step, workspace, tiles)
        inputs = loss.kernel_inputs(own.cos, norms)
        if loss.has_row_statistics:
            loss.set_statistics(spans.statistics(inputs))
        peak, total, largest = spans.log_sum(inputs)
        if largest is not None:
            lengths = loss.product_scale * (1.0 if loss.normalizes else norms.clamp_min(MIN_NORM))
            largest = (largest / lengths).clamp_min(-1)
        compared = LogSum(step, peak, total, largest).over_ranks(own, norms)
        if largest is not None:
            ctx.mark_non_differentiable(compared.max_cos)

        ctx.save_for_backward(embeddings, norms, weight, compared.own_cos, compared.lse_others, *parameters)
        ctx.step, ctx.workspace, ctx.spans, ctx.buffers = step, workspace, spans, loss.saved_buffers()
        spans.weight = None  # autograd has it, and lets it go after the backward pass
        return tuple(compared)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_own_cos: Tensor, grad_lse: Tensor, grad_own_centres: Tensor | None, _):
        """Gradients of embeddings, norms, centres and the parameters of the others' logits."""
        embeddings, norms, weight, own_cos, lse, *parameters = ctx.saved_tensors
        step, shard, spans = ctx.step, ctx.step.shard, ctx.spans
        spans.weight = weight
        needs_weight = ctx.needs_input_grad[2]
        grad_weight, ctx.workspace = ctx.workspace, None  # the only reference: autograd takes it, uncopied
        if needs_weight and grad_weight is None:  # a second backward pass through one graph
            grad_weight = torch.empty_like(weight)
            spans.set_workspace(grad_weight)
        lse = lse.masked_fill(lse == -math.inf, 0)  # no other class: every exp is 0 anyway
        learnt = step.loss.parameters_to_learn(parameters, ctx.needs_input_grad[5:])
        vectors = [tensor.detach().requires_grad_() for tensor in (own_cos, norms)]
        with torch.enable_grad():
            inputs = step.loss.kernel_inputs(*vectors, ctx.buffers | learnt)

        grad_left, by_row, by_scalar = spans.gradients(inputs, lse, grad_lse, grad_weight)
        spans.set_workspace(None)
        spans.weight = None
        grad_embeddings = grad_left * step.loss.product_scale
        grad_own, grad_norms, grad_learnt = 0.0, None, {}
        if not step.loss.is_linear:
            names = [name for name, tensor in learnt.items() if tensor.requires_grad]
            sources = [*vectors, *(learnt[name] for name in names)]
            through = (inputs.row, by_row * grad_lse), (inputs.scalar, (by_scalar * grad_lse).sum())
            grads = input_gradients(through, sources)
            grad_own, grad_norms, *grads = sum_together(*grads)
            grad_learnt = dict(zip(names, grads))

        own = embeddings, weight, step, grad_own_cos + grad_own, grad_own_centres
        of_own_centres = add_own_gradients(grad_embeddings, *own)
        if needs_weight:
            # Not index_add_, which on a GPU adds the samples of one class in any order.
            grad_weight.index_put_((shard.columns,), of_own_centres, accumulate=True)
        by_parameter = (grad_learnt.get(name) for name in learnt)
        return grad_embeddings, grad_norms, grad_weight, None, None, *by_parameter


def input_gradients(through: tuple[tuple[Tensor | None, Tensor], ...], sources: list[Tensor]) -> list[Tensor]:
    """Gradients of `sources` through the pairs (result, its gradient); 0 where nothing depends on one."""
    pairs = [
        (tensor, gradient) for tensor, gradient in through if tensor is not None and tensor.requires_grad
    ]
    if not pairs:
        return [torch.zeros_like(source) for source in sources]
    results, gradients = zip(*pairs)
    return list(torch.autograd.grad(results, sources, gradients, materialize_grads=True))
