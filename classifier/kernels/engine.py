"""`stream` with its passes over the classes in GPU kernels; the same numbers, collectives and gradients.

Only vectors and matrices over the batch are computed here by PyTorch. docs/classifier.md has the design.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from classifier.kernels.spans import Spans
from classifier.kernels.tiles import tiles_for
from classifier.own_classes import compare_own, own_centre_gradients
from classifier.step import Step
from utils.distributed import all_max, all_reduce
from utils.unit_vectors import MIN_NORM


class KernelClasses(torch.autograd.Function):
    """`Comparison` and its gradient, without the logits; as `StreamedClasses`."""

    @staticmethod
    def forward(ctx, embeddings, norms, weight, step: Step, keep: bool, *parameters):
        """What `Comparison` holds; with `keep` the memory of the gradient takes products for the way back."""
        loss = step.loss
        own_directions, own_cos, own_centres = compare_own(embeddings, weight, step)
        loss.update_state(own_cos, norms)

        workspace = torch.empty_like(weight) if keep else None
        tiles = tiles_for(weight.device, step.dtype, weight.shape[1])
        spans = Spans(embeddings * loss.product_scale, weight, step, workspace, tiles)
        inputs = loss.kernel_inputs(own_cos, norms)
        if loss.has_row_statistics:
            loss.set_statistics(spans.statistics(inputs))
        peak, total, largest = spans.log_sum(inputs)
        highest = all_max(peak.clone())
        lse = highest + all_reduce(total * (peak - highest).exp()).log()
        max_cos = None
        if largest is not None:
            lengths = loss.product_scale * (1.0 if loss.normalizes else norms.clamp_min(MIN_NORM))
            max_cos = all_max((largest / lengths).clamp_min(-1))
            ctx.mark_non_differentiable(max_cos)

        ctx.save_for_backward(embeddings, norms, weight, own_cos, own_directions, lse, *parameters)
        ctx.step, ctx.workspace, ctx.spans, ctx.buffers = step, workspace, spans, loss.saved_buffers()
        spans.weight = None  # autograd has it, and lets it go after the backward pass
        return own_cos, lse, own_centres, max_cos

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_own_cos: Tensor, grad_lse: Tensor, grad_own_centres: Tensor | None, _):
        """Gradients of embeddings, norms, centres and the parameters of the others' logits."""
        embeddings, norms, weight, own_cos, own_directions, lse, *parameters = ctx.saved_tensors
        step, shard, spans = ctx.step, ctx.step.shard, ctx.spans
        spans.weight = weight
        needs_weight, needs_parameters = ctx.needs_input_grad[2], ctx.needs_input_grad[5:]
        grad_weight, ctx.workspace = ctx.workspace, None  # the only reference: autograd takes it, uncopied
        if needs_weight and grad_weight is None:  # a second backward pass through one graph
            grad_weight = torch.empty_like(weight)
            spans.set_workspace(grad_weight)
        lse = lse.masked_fill(lse == -math.inf, 0)  # no other class: every exp is 0 anyway
        names = step.loss.parameters_of_others()
        learnt = {
            n: p.detach().requires_grad_(need) for n, p, need in zip(names, parameters, needs_parameters)
        }
        vectors = [tensor.detach().requires_grad_() for tensor in (own_cos, norms)]
        with torch.enable_grad():
            inputs = step.loss.kernel_inputs(*vectors, ctx.buffers | learnt)

        grad_left, by_row, by_scalar = spans.gradients(inputs, lse, grad_lse, grad_weight)
        spans.set_workspace(None)
        spans.weight = None
        grad_embeddings = grad_left * step.loss.product_scale
        grad_own, grad_norms, grad_learnt = 0.0, None, {}
        if not step.loss.is_linear:
            learnt = {name: tensor for name, tensor in learnt.items() if tensor.requires_grad}
            sources = [*vectors, *learnt.values()]
            through = (inputs.row, by_row * grad_lse), (inputs.scalar, (by_scalar * grad_lse).sum())
            grads = input_gradients(through, sources)
            grad_own, grad_norms = all_reduce(torch.stack(grads[:2]))
            grad_learnt = {name: all_reduce(gradient) for name, gradient in zip(learnt, grads[2:])}

        grad_own = (grad_own_cos + grad_own)[shard.rows, None]  # (k, 1)
        grad_embeddings.index_add_(0, shard.rows, grad_own * own_directions)  # a sample has one own class
        if needs_weight:
            own = embeddings, weight, step, own_directions, grad_own, grad_own_centres
            # Not index_add_, which on a GPU adds the samples of one class in any order.
            grad_weight.index_put_((shard.columns,), own_centre_gradients(*own), accumulate=True)
        by_parameter = (grad_learnt.get(name) for name in names)
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
