"""The two engines of PartialFC: what one step needs of this rank's classes, and its gradient.

`dense` builds this rank's logits and leaves the gradient to autograd: short, obviously right, the reference.
`stream` walks over the centres in chunks, and in the backward pass once more. Between the walks the memory of
the centres' gradient lies idle: there it keeps as many of the products as find room, until the gradient takes
their place, chunk by chunk; the others are computed anew. So memory is O(B·D + B·chunk) beside centres and
gradient, never (batch, classes), and where B <= D (in half precision 2·D) three products do for all.

Every `(B,)` vector that leaves an engine is equal on all ranks; only such vectors, and (B, D) matrices, cross
the network. Shapes: B samples of the global batch, n classes of this shard, D the embedding size, k the
samples whose own class this rank holds.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from classifier.kept_products import split
from classifier.products import full_rows, product, short, weighted_sum
from classifier.shard import Shard, fill_own
from utils.distributed import all_max, all_reduce
from utils.unit_vectors import inverse_length, through_unit


def stream(embeddings: Tensor, norms: Tensor, weight: Tensor, shard: Shard):
    """Walk over the classes in chunks.

    Args:
        embeddings: `(B, D)`, of unit length where the loss normalises.
        norms: `(B,)`.
        weight: `(n, D)`, the raw centres of this rank's (sampled) classes.
    Returns:
        own_cos `(B,)`; lse_others `(B,)`, log-sum-exp over the other classes of all ranks; own_centres
        `(B, D)` and max_cos `(B,)`, or None where nobody needs them.
    """
    keep = torch.is_grad_enabled() and weight.requires_grad
    return StreamedClasses.apply(embeddings, norms, weight, shard, keep)


class StreamedClasses(torch.autograd.Function):
    """What a step needs of the classes, and its gradient, without their logits.

    With z_ij the logit of sample i and other class j, lse_i = log Σ_j exp z_ij, and g_i = ∂L/∂lse_i, the
    gradient of a logit is g_i·exp(z_ij − lse_i). The g_i multiply (B, D) matrices, never a (B, chunk) block.
    """

    @staticmethod
    def forward(ctx, embeddings: Tensor, norms: Tensor, weight: Tensor, shard: Shard, keep: bool):
        own_directions = shard.directions(weight[shard.columns])
        own_cos = all_reduce(shard.spread((embeddings[shard.rows] * own_directions).sum(1)))
        own_centres = all_reduce(shard.spread(weight[shard.columns])) if shard.needs_own_centres else None
        shard.advance(own_cos, norms)

        scale = shard.loss.scale if shard.is_linear else 1.0  # goes into the embeddings, not into each block
        room = torch.empty_like(weight) if keep else None
        stretches = split(embeddings * scale, room, shard.dtype)
        shard.reduce_rows(StreamedClasses.blocks(weight, shard, stretches), own_cos, norms)

        peak = torch.full_like(own_cos, torch.finfo(own_cos.dtype).min)  # finite, also with no other class
        total = torch.zeros_like(own_cos)  # of exp(logit − peak)
        max_cos = torch.full_like(own_cos, -1) if shard.needs_max_cos else None
        for start, centres in chunks(weight, shard.chunk_size):
            directions = shard.directions(centres)
            for stretch in stretches:
                rows = stretch.rows
                block = stretch.products(start, directions)  # (b, chunk): scale · cos, or cos
                if shard.needs_max_cos:
                    largest = shard.largest_cosine(block, norms[rows], centres) / scale
                    max_cos[rows] = torch.maximum(max_cos[rows], largest)
                if not shard.is_linear:
                    block = apart(shard.other_logits(block, own_cos, norms, rows), block)
                fill_own(block, shard.own[rows], start, -math.inf)
                higher = torch.maximum(peak[rows], block.amax(1))
                block.sub_(higher[:, None]).exp_()
                total[rows] = total[rows] * (peak[rows] - higher).exp() + block.sum(1)
                peak[rows] = higher
                if shard.is_linear:
                    stretch.keep(start, block, higher, total[rows])
        highest = all_max(peak.clone())
        lse = highest + all_reduce(total * (peak - highest).exp()).log()
        if shard.needs_max_cos:
            ctx.mark_non_differentiable(all_max(max_cos))

        ctx.save_for_backward(embeddings, norms, weight, own_cos, own_directions, lse)
        ctx.shard, ctx.scale, ctx.room, ctx.stretches = shard, scale, room, stretches
        ctx.loss_state = buffers_of(shard.loss)
        return own_cos, lse, own_centres, max_cos

    @staticmethod
    def blocks(weight: Tensor, shard: Shard, stretches: list) -> Iterator[tuple[slice, int, Tensor]]:
        """`(rows, start, products (b, chunk))` of all samples with all classes."""
        for start, centres in chunks(weight, shard.chunk_size):
            directions = shard.directions(centres)
            for stretch in stretches:
                yield stretch.rows, start, stretch.products(start, directions)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_own_cos: Tensor, grad_lse: Tensor, grad_own_centres: Tensor | None, _):
        embeddings, norms, weight, own_cos, own_directions, lse = ctx.saved_tensors
        shard, scale, normalize = ctx.shard, ctx.scale, ctx.shard.loss.normalize
        needs_weight = ctx.needs_input_grad[2]
        grad_weight, ctx.room = ctx.room, None  # the only reference: autograd takes it over, without a copy
        stretches, ctx.stretches = ctx.stretches, split(embeddings * scale, None, shard.dtype)
        if needs_weight and grad_weight is None:  # this graph is walked through once more
            grad_weight = torch.empty_like(weight)
        offset = lse.masked_fill(lse == -math.inf, 0)  # no other class: every exp below is 0 anyway

        grad_embeddings = torch.zeros_like(embeddings)
        grad_extra = torch.stack([own_cos, norms]).zero_()  # through other_logits' own_cos and norms
        for start, centres in chunks(weight, shard.chunk_size):
            inverse = inverse_length(centres) if normalize else None
            directions = centres * inverse if normalize else centres
            vectors, length = (directions, 1.0) if normalize else short(directions, shard.dtype)
            parts = []  # of the directions' gradient, one a stretch
            for stretch in stretches:
                rows = stretch.rows
                if shard.is_linear:
                    block, factor = stretch.probabilities(start, directions, offset[rows], shard.own[rows])
                else:
                    block = stretch.products(start, directions)
                    block, extra = StreamedClasses.through_other_logits(
                        block, own_cos, norms, offset[rows, None], start, shard, rows, ctx.loss_state
                    )
                    block, factor = full_rows(block, shard.dtype)
                    grad_extra[:, rows] += extra
                grad_embeddings[rows] += (factor * length) * product(block, vectors, shard.dtype)
                if needs_weight:
                    weights = factor * grad_lse[rows, None]
                    parts.append(weighted_sum(block, weights, embeddings[rows], shard.dtype))
            if needs_weight:
                grad_directions = sum(parts[1:], parts[0])
                grad_centres = grad_weight[start : start + len(centres)]  # no product here is needed again
                if normalize:
                    through_unit(grad_directions, directions, inverse * scale, out=grad_centres)
                else:
                    torch.mul(grad_directions, scale, out=grad_centres)
        grad_embeddings *= scale * grad_lse[:, None]

        if not shard.is_linear:
            grad_extra = all_reduce(grad_extra * grad_lse)
        grad_own = (grad_own_cos + grad_extra[0])[shard.rows, None]
        grad_embeddings.index_add_(0, shard.rows, grad_own * own_directions)
        if needs_weight:
            grad_rows = grad_own * embeddings[shard.rows]
            if normalize:
                grad_rows = through_unit(grad_rows, own_directions, inverse_length(weight[shard.columns]))
            if shard.needs_own_centres:
                grad_rows = grad_rows + grad_own_centres[shard.rows]
            grad_weight.index_add_(0, shard.columns, grad_rows)
        return grad_embeddings, grad_extra[1], grad_weight, None, None

    @staticmethod
    def through_other_logits(
        cos, own_cos, norms, offset, start, shard, rows, loss_state
    ) -> tuple[Tensor, Tensor]:
        """Gradient of Σ_j exp(z_ij − lse_i)·z_ij, the exp held fixed.

        Returns:
            `(b, chunk)` for cos; `(2, b)` for own_cos and norms.
        """
        inputs = [tensor.detach().requires_grad_() for tensor in (cos, own_cos, norms)]
        with torch.enable_grad(), loss_as_it_was(shard.loss, loss_state):
            logits = shard.other_logits(*inputs, rows)
        probability = (logits.detach() - offset).exp_()
        fill_own(probability, shard.own[rows], start, 0.0)
        grad_cos, *extra = torch.autograd.grad(logits, inputs, probability, materialize_grads=True)
        return grad_cos, torch.stack(extra)[:, rows]


def apart(logits: Tensor, cos: Tensor) -> Tensor:
    """The logits, in memory of their own: a loss may hand over the cosines as they are."""
    shared = logits.untyped_storage().data_ptr() == cos.untyped_storage().data_ptr()
    return logits.clone() if shared else logits


def buffers_of(loss: nn.Module) -> list[dict[str, Tensor]]:
    """Copies of all running statistics, a dict for each module of the loss."""
    return [{name: b.clone() for name, b in module._buffers.items()} for module in loss.modules()]


@contextmanager
def loss_as_it_was(loss: nn.Module, state: list[dict[str, Tensor]]):
    """Within, the loss has the statistics of the forward pass; another forward may have moved them on."""
    present = [dict(module._buffers) for module in loss.modules()]
    try:
        for module, buffers in zip(loss.modules(), state):
            module._buffers.update(buffers)
        yield
    finally:
        for module, buffers in zip(loss.modules(), present):
            module._buffers.update(buffers)


def chunks(weight: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """`(start, rows)` of consecutive chunks of at most `size` rows."""
    for start in range(0, len(weight), size):
        yield start, weight[start : start + size]
