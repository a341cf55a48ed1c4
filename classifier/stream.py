"""The engine for many classes: it passes over the centres in chunks, and once more in the backward pass.

It never holds a matrix (batch, classes). Beside the centres and their gradient it needs memory for B·D and
chunk·(B + D) numbers. Products that the first pass makes are kept in the memory of that gradient until it is
written (`kept_products.py`): a step takes three matrix products where B <= D (in half precision 2·D), more
elsewhere.

With z_ij the logit of sample i and another class j, lse_i = log Σ_j exp z_ij and g_i = ∂L/∂lse_i, the
gradient of a logit is g_i·p_ij, where p_ij = exp(z_ij − lse_i). The g_i multiply (B, D) matrices, not blocks
(but for the gradient of the loss's own parameters).

Every vector `(B,)` that leaves the engine is equal on all ranks. Only such vectors and matrices (B, D) cross
the network: forward, one sum for own_cos, one maximum and one sum for lse, one reduction for each row
statistic, and, where a regulariser asks, own_centres and max_cos; backward, if the loss is not linear, one
sum and one more for each of its parameters.

Shapes: B samples of the global batch, n classes of this rank that take part, D the embedding size, k samples
whose own class is one of this rank's; b and chunk the part of B and n that a block `(b, chunk)` covers.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from classifier.kept_products import BatchSlice, slices_of
from classifier.other_logits import LinearLogits, MovedLogits
from classifier.own_classes import compare_own, own_centre_gradients, through_directions
from classifier.products import product, scaled_to_one, weighted_sum
from classifier.shard import fill_own
from classifier.step import Comparison, Step
from utils.distributed import all_max, all_reduce
from utils.unit_vectors import inverse_norm


def stream(embeddings: Tensor, norms: Tensor, weight: Tensor, step: Step) -> Comparison:
    """Compare the batch with the classes of all ranks.

    Args:
        embeddings: `(B, D)`, of unit length where the loss normalises.
        norms: `(B,)`, of the raw embeddings.
        weight: `(n, D)`, the raw centres of this rank's (sampled) classes.
    """
    keep = torch.is_grad_enabled() and weight.requires_grad
    parameters = step.loss.parameters_of_others().values()
    if step.kernels:
        from classifier.kernels.engine import KernelClasses  # imports triton, which need not be installed

        return Comparison(*KernelClasses.apply(embeddings, norms, weight, step, keep, *parameters))
    return Comparison(*StreamedClasses.apply(embeddings, norms, weight, step, keep, *parameters))


class StreamedClasses(torch.autograd.Function):
    """`Comparison` and its gradient, without the logits."""

    @staticmethod
    def forward(ctx, embeddings, norms, weight, step: Step, keep: bool, *parameters):
        loss, shard = step.loss, step.shard
        own_directions, own_cos, own_centres = compare_own(embeddings, weight, step)
        loss.update_state(own_cos, norms)

        workspace = torch.empty_like(weight) if keep else None
        slices = slices_of(embeddings * loss.product_scale, workspace, step.dtype)
        loss.reduce_statistics(product_blocks(weight, step, slices), own_cos, norms, shard.own)
        lse, max_cos = reduce_lse(weight, step, slices, own_cos, norms)
        if max_cos is not None:
            ctx.mark_non_differentiable(max_cos)

        ctx.save_for_backward(embeddings, norms, weight, own_cos, own_directions, lse, *parameters)
        ctx.step, ctx.workspace, ctx.slices, ctx.buffers = step, workspace, slices, loss.saved_buffers()
        return own_cos, lse, own_centres, max_cos

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_own_cos: Tensor, grad_lse: Tensor, grad_own_centres: Tensor | None, _):
        embeddings, norms, weight, own_cos, own_directions, lse, *parameters = ctx.saved_tensors
        step, shard, dtype = ctx.step, ctx.step.shard, ctx.step.dtype
        normalize, scale = step.loss.normalizes, step.loss.product_scale
        needs_weight, needs_parameters = ctx.needs_input_grad[2], ctx.needs_input_grad[5:]
        grad_weight, ctx.workspace = ctx.workspace, None  # the only reference: autograd takes it, uncopied
        slices, ctx.slices = ctx.slices, slices_of(embeddings * scale, None, dtype)
        if needs_weight and grad_weight is None:  # a second backward pass through one graph
            grad_weight = torch.empty_like(weight)
        lse = lse.masked_fill(lse == -math.inf, 0)  # no other class: every exp below is 0 anyway
        names = step.loss.parameters_of_others()
        learnt = {
            n: p.detach().requires_grad_(need) for n, p, need in zip(names, parameters, needs_parameters)
        }
        if step.loss.is_linear:
            others = LinearLogits(shard, lse)
        else:
            others = MovedLogits(step, own_cos, norms, lse, grad_lse, ctx.buffers | learnt)

        grad_embeddings = torch.zeros_like(embeddings)
        for start, centres in chunks(weight, step.chunk_size):
            inverse = inverse_norm(centres) if normalize else None
            directions = centres * inverse if normalize else centres
            vectors, length = (directions, 1.0) if normalize else scaled_to_one(directions, dtype)
            parts = []  # of the gradient of the directions, one for each slice of the batch
            for part in slices:
                rows = part.rows
                block, factor = others.gradient(part, start, directions)
                grad_embeddings[rows] += (factor * length) * product(block, vectors, dtype)
                if needs_weight:
                    parts.append(weighted_sum(block, factor * grad_lse[rows, None], embeddings[rows], dtype))
            if needs_weight:  # written over the kept products of this chunk, which nobody needs again
                out = grad_weight[start : start + len(centres)]
                through_directions(sum(parts[1:], parts[0]), directions, inverse, scale, out)
        grad_embeddings *= scale * grad_lse[:, None]

        grad_own, grad_norms, grad_parameters = others.reduced_gradients()
        grad_own = (grad_own_cos + grad_own)[shard.rows, None]  # (k, 1)
        grad_embeddings.index_add_(0, shard.rows, grad_own * own_directions)
        if needs_weight:
            own = embeddings, weight, step, own_directions, grad_own, grad_own_centres
            grad_weight.index_add_(0, shard.columns, own_centre_gradients(*own))
        by_parameter = (grad_parameters.get(name) for name in names)
        return grad_embeddings, grad_norms, grad_weight, None, None, *by_parameter


def chunks(weight: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """`(start, rows)` of consecutive chunks of at most `size` rows."""
    for start in range(0, len(weight), size):
        yield start, weight[start : start + size]


def product_blocks(
    weight: Tensor, step: Step, slices: list[BatchSlice]
) -> Iterator[tuple[slice, int, Tensor]]:
    """`(rows, start, products (b, chunk))` of all samples with all classes."""
    for start, centres in chunks(weight, step.chunk_size):
        directions = step.loss.directions(centres)
        for part in slices:
            yield part.rows, start, part.products(start, directions)


def reduce_lse(
    weight: Tensor, step: Step, slices: list[BatchSlice], own_cos: Tensor, norms: Tensor
) -> tuple[Tensor, Tensor | None]:
    """lse_others and max_cos over all ranks; see `Comparison`."""
    loss, shard = step.loss, step.shard
    peak = torch.full_like(own_cos, torch.finfo(own_cos.dtype).min)  # finite, also with no other class
    total = torch.zeros_like(own_cos)  # of exp(logit − peak)
    max_cos = torch.full_like(own_cos, -1) if step.needs_max_cos else None
    for start, centres in chunks(weight, step.chunk_size):
        directions = loss.directions(centres)
        for part in slices:
            rows = part.rows
            block = part.products(start, directions)  # (b, chunk): cosines, or logits of a linear loss
            if max_cos is not None:
                largest = loss.largest_cosine(block, norms[rows], centres) / loss.product_scale
                max_cos[rows] = torch.maximum(max_cos[rows], largest)
            if not loss.is_linear:
                block = unaliased(loss.other_logits(block, own_cos, norms, rows), block)
            fill_own(block, shard.own[rows], start, -math.inf)
            higher = torch.maximum(peak[rows], block.amax(1))
            block.sub_(higher[:, None]).exp_()
            total[rows] = total[rows] * (peak[rows] - higher).exp() + block.sum(1)
            peak[rows] = higher
            if loss.is_linear:
                part.keep(start, block, higher, total[rows])
    highest = all_max(peak.clone())
    lse = highest + all_reduce(total * (peak - highest).exp()).log()
    return lse, None if max_cos is None else all_max(max_cos)


def unaliased(logits: Tensor, cos: Tensor) -> Tensor:
    """The logits in memory of their own: a loss may return the cosines themselves, or a view of them."""
    shared = logits.untyped_storage().data_ptr() == cos.untyped_storage().data_ptr()
    return logits.clone() if shared else logits
