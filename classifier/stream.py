"""The engine for many classes: it passes over the centres in chunks, and once more in the backward pass.

It never holds a matrix (batch, classes). Beside the centres and their gradient it needs memory for B·D and
chunk·(B + D) numbers. Products that the first pass makes are kept in the memory of that gradient until it is
written (`kept_products.py`): a step takes three matrix products where B <= D (in half precision 2·D), more
elsewhere.

With z_ij the logit of sample i and another class j, lse_i = log Σ_j exp z_ij and g_i = ∂L/∂lse_i, the
gradient of a logit is g_i·p_ij, where p_ij = exp(z_ij − lse_i). The g_i multiply (B, D) matrices, not blocks
(but for the gradient of the loss's own parameters).

Every vector `(B,)` that leaves the engine is equal on all ranks. Only such vectors and matrices (B, D) cross
the network, in 1 to 5 collectives forward and, if the loss is not linear, 1 backward: docs/classifier.md has
what they carry.

Shapes: B samples of the global batch, n classes of this rank that take part, D the embedding size, k samples
whose own class is one of this rank's; b and chunk the part of B and n that a block `(b, chunk)` covers.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from classifier.class_chunks import ClassChunks
from classifier.kept_products import BatchSlice, slices_of
from classifier.log_sum import LogSum, own_before_others
from classifier.other_logits import LinearLogits, MovedLogits
from classifier.own_classes import add_own_gradients, through_directions
from classifier.products import product, weighted_sum
from classifier.step import Comparison, Step


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
        """What `Comparison` holds.

        Args:
            embeddings: `(B, D)`.
            norms: `(B,)`.
            weight: `(n, D)`.
            keep: whether the memory of the centres' gradient takes products for the backward pass.
            parameters: of the loss, which the others' logits may read; any shape.
        """
        loss, shard = step.loss, step.shard
        own = own_before_others(embeddings, norms, weight, step)
        workspace = torch.empty_like(weight) if keep else None
        classes = ClassChunks(weight, step)
        slices = slices_of(embeddings * loss.product_scale, workspace, step.dtype)
        loss.reduce_statistics(product_blocks(classes, weight, slices), own.cos, norms, shard.own)

        others = LogSum.of_nothing(norms, step)
        for chunk in classes.walk(weight):
            for part in slices:
                block = part.products(chunk.start, chunk.directions)  # (b, chunk): cosines, or linear logits
                others.compare(part.rows, block, norms, chunk.centres)
                if not loss.is_linear:
                    block = unaliased(loss.other_logits(block, own.cos, norms, part.rows), block)
                others.add(part.rows, chunk.start, block)
                if loss.is_linear:
                    part.keep(chunk.start, block, others.peak[part.rows], others.total[part.rows])
        compared = others.over_ranks(own, norms)
        if compared.max_cos is not None:
            ctx.mark_non_differentiable(compared.max_cos)
        ctx.save_for_backward(embeddings, norms, weight, compared.own_cos, compared.lse_others, *parameters)
        ctx.step, ctx.workspace, ctx.slices, ctx.classes = step, workspace, slices, classes
        ctx.buffers = loss.saved_buffers()
        return tuple(compared)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_own_cos: Tensor, grad_lse: Tensor, grad_own_centres: Tensor | None, _):
        """Gradients of what `forward` got, in its order and shapes; None for `step` and `keep`.

        Args:
            grad_own_cos, grad_lse: `(B,)`, equal on every rank.
            grad_own_centres: `(B, D)`, equal on every rank; None where nobody asks for own centres.
        """
        embeddings, norms, weight, own_cos, lse, *parameters = ctx.saved_tensors
        step, shard, dtype = ctx.step, ctx.step.shard, ctx.step.dtype
        scale, needs_weight = step.loss.product_scale, ctx.needs_input_grad[2]
        grad_weight, ctx.workspace = ctx.workspace, None  # the only reference: autograd takes it, uncopied
        slices, ctx.slices = ctx.slices, slices_of(embeddings * scale, None, dtype)
        if needs_weight and grad_weight is None:  # a second backward pass through one graph
            grad_weight = torch.empty_like(weight)
        lse = lse.masked_fill(lse == -math.inf, 0)  # no other class: every exp below is 0 anyway
        learnt = step.loss.parameters_to_learn(parameters, ctx.needs_input_grad[5:])
        if step.loss.is_linear:
            others = LinearLogits(shard, lse)
        else:
            others = MovedLogits(step, own_cos, norms, lse, grad_lse, ctx.buffers | learnt)

        grad_embeddings = torch.zeros_like(embeddings)
        memory = torch.empty_like(weight[: step.chunk_size]) if needs_weight else None
        for chunk in ctx.classes.walk(weight):
            vectors, length = chunk.operand(dtype)
            gradient = None  # of the directions
            for part in slices:
                rows = part.rows
                block, factor = others.gradient(part, chunk.start, chunk.directions)
                grad_embeddings[rows] += product(block, vectors, dtype).mul_(factor * length)
                if not needs_weight:
                    continue
                weights = factor * grad_lse[rows, None]
                if gradient is None:
                    gradient = weighted_sum(block, weights, embeddings[rows], dtype, memory[: len(vectors)])
                else:
                    gradient += weighted_sum(block, weights, embeddings[rows], dtype)
            if needs_weight:  # written over the kept products of this chunk, which nobody needs again
                through_directions(gradient, chunk.directions, chunk.inverse, scale, grad_weight[chunk.rows])
        grad_embeddings *= scale * grad_lse[:, None]

        grad_own, grad_norms, grad_parameters = others.reduced_gradients()
        own = embeddings, weight, step, grad_own_cos + grad_own, grad_own_centres
        of_own_centres = add_own_gradients(grad_embeddings, *own)
        if needs_weight:
            grad_weight.index_add_(0, shard.columns, of_own_centres)
        by_parameter = (grad_parameters.get(name) for name in learnt)
        return grad_embeddings, grad_norms, grad_weight, None, None, *by_parameter


def product_blocks(
    classes: ClassChunks, weight: Tensor, slices: list[BatchSlice]
) -> Iterator[tuple[slice, int, Tensor]]:
    """`(rows, start, products (b, chunk))` of all samples with all classes."""
    for chunk in classes.walk(weight):
        for part in slices:
            yield part.rows, chunk.start, part.products(chunk.start, chunk.directions)


def unaliased(logits: Tensor, cos: Tensor) -> Tensor:
    """The logits in memory of their own: a loss may return the cosines themselves, or a view of them."""
    shared = logits.untyped_storage().data_ptr() == cos.untyped_storage().data_ptr()
    return logits.clone() if shared else logits
