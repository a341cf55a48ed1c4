"""The two engines of PartialFC: what one step needs of this rank's classes, and its gradient.

`dense` builds this rank's logits and leaves the gradient to autograd: short, obviously right, the reference.
`stream` walks over the centres in chunks, keeps each row's log-sum-exp, and recomputes the chunks in the
backward pass: memory O(B·D + B·chunk) beside the centres and their gradient, never (batch, classes).

Every `(B,)` vector that leaves an engine is equal on all ranks; only such vectors, and (B, D) matrices, cross
the network. Shapes: B samples of the global batch, n classes of one chunk, D the embedding size, k the
samples whose own class this rank holds.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from utils.directions import inverse_length, through_unit
from utils.distributed import CopyToShards, SumOverShards, all_max, all_reduce
from utils.shard import Shard, fill_own


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b with the operands in `dtype` (float64 stays); the result in a's own precision.

    An outer autocast has no say: the logits that a backward pass recomputes have to be those of the forward.
    """
    if a.dtype == torch.float64:
        dtype = torch.float64
    with torch.autocast(a.device.type, enabled=False):
        return (a.to(dtype) @ b.to(dtype)).to(a.dtype)


def dense(embeddings: Tensor, norms: Tensor, weight: Tensor, shard: Shard):
    """All logits of this rank at once; autograd does the rest. Returns as `StreamedClasses`."""
    centres = shard.directions(weight)
    own_centres = shard.own_rows(weight) if shard.needs_own_centres else None
    own_cos = (embeddings[shard.rows] * centres[shard.columns]).sum(1)
    own_cos = SumOverShards.apply(shard.spread(own_cos))
    shard.advance(own_cos, norms)

    cos = product(embeddings, centres.T, shard.dtype)  # (B, n)
    with torch.no_grad():
        shard.reduce_rows(iter([(0, cos)] if cos.shape[1] else []), own_cos, norms)
        max_cos = all_max(shard.largest_cosine(cos, norms, weight)) if shard.needs_max_cos else None
    logits = shard.other_logits(cos, CopyToShards.apply(own_cos), CopyToShards.apply(norms))
    is_own = shard.own[:, None] == torch.arange(len(weight), device=weight.device)
    logits = logits.masked_fill(is_own, -math.inf)

    lowest = logits.new_full((len(logits), 1), torch.finfo(logits.dtype).min)
    peak = all_max(torch.cat([logits.detach(), lowest], 1).amax(1))  # finite, also with no other class
    total = SumOverShards.apply((logits - peak[:, None]).exp().sum(1))
    lse_others = torch.where(total > 0, peak + torch.where(total > 0, total, 1).log(), -math.inf)
    return own_cos, lse_others, own_centres, max_cos


class StreamedClasses(torch.autograd.Function):
    """Walk over the classes in chunks: what a step needs of them, and its gradient, without their logits.

    With z_ij the logit of sample i and other class j, lse_i = log Σ_j exp z_ij, and g_i = ∂L/∂lse_i, the
    gradient of a logit is g_i·exp(z_ij − lse_i). The g_i multiply (B, D) matrices, never a (B, chunk) block.

    Returns:
        own_cos `(B,)`; lse_others `(B,)` over the classes of all ranks; own_centres `(B, D)` and max_cos
        `(B,)`, or None where nobody needs them.
    """

    @staticmethod
    def forward(ctx, embeddings: Tensor, norms: Tensor, weight: Tensor, shard: Shard):
        own_directions = shard.directions(weight[shard.columns])
        own_cos = all_reduce(shard.spread((embeddings[shard.rows] * own_directions).sum(1)))
        own_centres = all_reduce(shard.spread(weight[shard.columns])) if shard.needs_own_centres else None
        shard.advance(own_cos, norms)
        cosines = (
            (start, product(embeddings, shard.directions(rows).T, shard.dtype))
            for start, rows in chunks(weight, shard.chunk_size)
        )
        shard.reduce_rows(cosines, own_cos, norms)

        scale, left = StreamedClasses.fused(embeddings, shard)
        lse = torch.full_like(own_cos, -math.inf)
        max_cos = torch.full_like(own_cos, -1) if shard.needs_max_cos else None
        for start, rows in chunks(weight, shard.chunk_size):
            logits = product(left, shard.directions(rows).T, shard.dtype)  # (B, chunk): scale · cos, or cos
            if shard.needs_max_cos:
                max_cos = torch.maximum(max_cos, shard.largest_cosine(logits, norms, rows) / scale)
            if not shard.loss.linear_others:
                logits = shard.other_logits(logits, own_cos, norms)
            fill_own(logits, shard.own, start, -math.inf)
            lse = torch.logaddexp(lse, logits.logsumexp(1))
        peak = all_max(lse.clone()).clamp_min(torch.finfo(lse.dtype).min)
        lse = peak + all_reduce((lse - peak).exp()).log()
        if shard.needs_max_cos:
            ctx.mark_non_differentiable(all_max(max_cos))

        ctx.save_for_backward(embeddings, norms, weight, own_cos, own_directions, lse)
        ctx.shard = shard
        return own_cos, lse, own_centres, max_cos

    @staticmethod
    def fused(embeddings: Tensor, shard: Shard) -> tuple[float, Tensor]:
        """Scale and left factor of the chunks' product: a linear loss's scale goes into the embeddings."""
        scale = shard.loss.scale if shard.loss.linear_others else 1.0
        return scale, embeddings * scale

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_own_cos: Tensor, grad_lse: Tensor, grad_own_centres: Tensor | None, _):
        embeddings, norms, weight, own_cos, own_directions, lse = ctx.saved_tensors
        shard, normalize = ctx.shard, ctx.shard.loss.normalize
        needs_weight = ctx.needs_input_grad[2]
        scale, left = StreamedClasses.fused(embeddings, shard)
        offset = lse.masked_fill(lse == -math.inf, 0)[:, None]  # no other class: every exp below is 0 anyway

        # The products see g_i / max g, which fits half precision whatever the loss scale.
        peak = grad_lse.abs().max().clamp_min(torch.finfo(grad_lse.dtype).tiny)
        weighted = embeddings * (grad_lse / peak)[:, None]

        grad_embeddings = torch.zeros_like(embeddings)
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_extra = torch.stack([own_cos, norms]).zero_()  # through other_logits' own_cos and norms
        for start, rows in chunks(weight, shard.chunk_size):
            inverse = inverse_length(rows) if normalize else None
            directions = rows * inverse if normalize else rows
            block = product(left, directions.T, shard.dtype)
            if shard.loss.linear_others:
                grad_cos = block.sub_(offset).exp_()
                fill_own(grad_cos, shard.own, start, 0.0)
            else:
                vectors = own_cos, norms, offset
                grad_cos, extra = StreamedClasses.through_other_logits(block, *vectors, start, shard)
                grad_extra += extra
            grad_embeddings += product(grad_cos, directions, shard.dtype)
            if needs_weight:
                grad_directions = product(grad_cos.T, weighted, shard.dtype)
                part = grad_weight[start : start + len(rows)]
                if normalize:
                    through_unit(grad_directions, directions, inverse * (peak * scale), out=part)
                else:
                    torch.mul(grad_directions, peak * scale, out=part)
        grad_embeddings *= scale * grad_lse[:, None]

        if not shard.loss.linear_others:
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
        return grad_embeddings, grad_extra[1], grad_weight, None

    @staticmethod
    def through_other_logits(cos, own_cos, norms, offset, start, shard) -> tuple[Tensor, Tensor]:
        """Gradient of Σ_j exp(z_ij − lse_i)·z_ij, the exp held fixed.

        Returns:
            `(B, chunk)` for cos; `(2, B)` for own_cos and norms.
        """
        inputs = [tensor.detach().requires_grad_() for tensor in (cos, own_cos, norms)]
        with torch.enable_grad():
            logits = shard.other_logits(*inputs)
        probability = (logits.detach() - offset).exp_()
        fill_own(probability, shard.own, start, 0.0)
        grad_cos, *extra = torch.autograd.grad(logits, inputs, probability, materialize_grads=True)
        return grad_cos, torch.stack(extra)


def chunks(weight: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """`(start, rows)` of consecutive chunks of at most `size` rows."""
    for start in range(0, len(weight), size):
        yield start, weight[start : start + size]
