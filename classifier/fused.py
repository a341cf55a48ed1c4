"""`stream` with the update of the centres inside the backward pass: no gradient of all centres exists.

A step passes over the classes twice, as `stream` does. The first pass sums up the log-sum-exp and, at the
same time, what the embeddings' gradient is made of, since ∂lse_i/∂u_i = Σ_j p_ij·∂z_ij/∂u_i needs no other
gradient. (The largest logit so far is the reference of the exponentials; where a larger one comes, the sums
are scaled down. Milakov and Gimelshein, Online normalizer calculation for softmax, https://arxiv.org/abs/1805.02867.)
The second pass comes last in the backward pass, when all is known that decides whether the step is finite:
it makes the gradient of a chunk of centres, hands it to the update rule, and forgets it.

Two matrix products of batch × classes × D each way, so four in all: there is no memory to keep products in.
Row statistics take one more, and so do others' logits that read a parameter.

Shapes: B samples of the global batch, n classes of this rank, D the embedding size, k samples whose own class
is one of this rank's.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from classifier.class_update import ClassUpdate, add_rows, slices
from classifier.kept_products import BatchSlice
from classifier.other_logits import LinearLogits, MovedLogits
from classifier.own_classes import compare_own, own_centre_gradients, through_directions
from classifier.products import product, rescaled_rows, scaled_to_one, weighted_sum
from classifier.shard import fill_own
from classifier.step import Comparison, Step
from classifier.stream import chunks, product_blocks
from utils.distributed import all_max, all_reduce
from utils.unit_vectors import inverse_norm


def fused_stream(
    embeddings: Tensor, norms: Tensor, weight: Tensor, step: Step, update: ClassUpdate
) -> Comparison:
    """Compare the batch with the classes of all ranks; takes and returns what `stream` does."""
    parameters = step.loss.parameters_of_others().values()
    return Comparison(*FusedClasses.apply(embeddings, norms, weight.detach(), step, update, *parameters))


class FusedClasses(torch.autograd.Function):
    """`Comparison` and its gradient; that of the centres goes to the update."""

    @staticmethod
    def forward(ctx, embeddings, norms, weight, step: Step, update: ClassUpdate, *parameters):
        """What `Comparison` holds."""
        loss, shard = step.loss, step.shard
        own_directions, own_cos, own_centres = compare_own(embeddings, weight, step)
        loss.update_state(own_cos, norms)
        whole = whole_batch(embeddings, step)
        loss.reduce_statistics(product_blocks(weight, step, [whole]), own_cos, norms, shard.own)

        others = OthersSum(whole, own_cos, norms, step)
        for start, centres in chunks(weight, step.chunk_size):
            others.add(start, centres)
        highest = all_max(others.peak.clone())
        lse = highest + all_reduce(others.total * (others.peak - highest).exp()).log()
        max_cos = others.max_cos
        if max_cos is not None:
            ctx.mark_non_differentiable(all_max(max_cos))
        finite = lse.masked_fill(lse == -math.inf, 0)  # no other class: every sum is 0 anyway
        through_embeddings, through_vectors = others.derivatives(finite)
        vectors = own_cos, own_directions, finite, through_embeddings, through_vectors
        ctx.save_for_backward(embeddings, norms, weight, *vectors, *parameters)
        ctx.step, ctx.update, ctx.buffers = step, update, loss.saved_buffers()
        return own_cos, lse, own_centres, max_cos

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_own_cos: Tensor, grad_lse: Tensor, grad_own_centres: Tensor | None, _):
        """Gradients of embeddings, norms and the parameters of the others' logits."""
        embeddings, norms, weight, own_cos, own_directions, lse, by_embedding, by_vector, *parameters = (
            ctx.saved_tensors
        )
        step, shard, needs = ctx.step, ctx.step.shard, ctx.needs_input_grad[5:]
        names = step.loss.parameters_of_others()
        fixed = ctx.buffers | {name: p.detach() for name, p in zip(names, parameters)}
        vectors = own_cos, norms, lse, grad_lse
        grad_own, grad_norms, grad_parameters = 0.0, None, {}
        if any(needs):
            learnt = {n: p.detach().requires_grad_(need) for n, p, need in zip(names, parameters, needs)}
            moved, whole = MovedLogits(step, *vectors, ctx.buffers | learnt), whole_batch(embeddings, step)
            for start, centres in chunks(weight, step.chunk_size):
                moved.gradient(whole, start, step.loss.directions(centres))
            grad_own, grad_norms, grad_parameters = moved.reduced_gradients()
        elif not step.loss.is_linear:
            grad_own, grad_norms = all_reduce(by_vector * grad_lse)

        grad_embeddings = by_embedding * (step.loss.product_scale * grad_lse)[:, None]
        grad_own = (grad_own_cos + grad_own)[shard.rows, None]  # (k, 1)
        grad_embeddings.index_add_(0, shard.rows, grad_own * own_directions)
        own = embeddings, weight, step, own_directions, grad_own, grad_own_centres
        others = LinearLogits(shard, lse) if step.loss.is_linear else MovedLogits(step, *vectors, fixed)
        ctx.update.centre_gradients = CentreGradients(
            step, embeddings, grad_lse, others, own_centre_gradients(*own)
        )
        by_parameter = (grad_parameters.get(name) for name in names)
        return grad_embeddings, grad_norms, None, None, None, *by_parameter


class OthersSum:
    """Of the other classes that were added so far: peak, Σ exp(z − peak), and its derivatives.

    Attributes:
        peak, total: `(B,)`.
        max_cos: `(B,)`, of all classes; None where nobody asks.
    """

    def __init__(self, whole: BatchSlice, own_cos: Tensor, norms: Tensor, step: Step):
        self.whole, self.own_cos, self.norms, self.step = whole, own_cos, norms, step
        self.peak = torch.full_like(
            own_cos, torch.finfo(own_cos.dtype).min
        )  # finite, also with no other class
        self.total = torch.zeros_like(own_cos)
        self.max_cos = torch.full_like(own_cos, -1) if step.needs_max_cos else None
        self.by_embedding = torch.zeros_like(whole.left)  # (B, D): Σ_j exp(z_ij − peak_i)·∂z_ij/∂cos_ij·ŵ_j
        self.by_vector = torch.stack([own_cos, norms]).zero_()  # (2, B): by own_cos and norm

    def add(self, start: int, centres: Tensor) -> None:
        """The classes from `start` on."""
        step, loss = self.step, self.step.loss
        directions = loss.directions(centres)
        block = self.whole.products(start, directions)  # (B, chunk): cosines, or logits of a linear loss
        if self.max_cos is not None:
            largest = loss.largest_cosine(block, self.norms, centres) / loss.product_scale
            self.max_cos = torch.maximum(self.max_cos, largest)
        logits = None
        if not loss.is_linear:
            inputs = [tensor.detach().requires_grad_() for tensor in (block, self.own_cos, self.norms)]
            with torch.enable_grad():
                logits = loss.other_logits(*inputs)
            block = logits.detach().clone()  # what its derivative needs may be in there
        fill_own(block, step.shard.own, start, -math.inf)
        higher = torch.maximum(self.peak, block.amax(1))
        exponentials = block.sub_(higher[:, None]).exp_()
        decay = (self.peak - higher).exp()
        self.total = self.total * decay + exponentials.sum(1)
        if logits is not None:
            exponentials, *by_vector = torch.autograd.grad(
                logits, inputs, exponentials, materialize_grads=True
            )
            self.by_vector = self.by_vector * decay + torch.stack(by_vector)
        rows, factor = rescaled_rows(exponentials, step.dtype)
        vectors, length = (directions, 1.0) if loss.normalizes else scaled_to_one(directions, step.dtype)
        self.by_embedding *= decay[:, None]
        self.by_embedding += (factor * length) * product(rows, vectors, step.dtype)
        self.peak = higher

    def derivatives(self, lse: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's part of those of `lse`, which is over all ranks, and finite: `(B, D)` and `(2, B)`."""
        share = (self.peak - lse).exp()
        return self.by_embedding * share[:, None], self.by_vector * share


class CentreGradients:
    """The gradient of this rank's centres, chunk by chunk.

    Args:
        embeddings: `(B, D)`, as compared with the centres.
        grad_lse: `(B,)`.
        own: `(k, D)`, what the centres of the own classes get beside.
    """

    def __init__(
        self,
        step: Step,
        embeddings: Tensor,
        grad_lse: Tensor,
        others: LinearLogits | MovedLogits,
        own: Tensor,
    ):
        self.step, self.embeddings, self.grad_lse = step, embeddings, grad_lse
        self.others, self.own = others, own

    def small(self) -> list[Tensor]:
        """What it is made of, over the batch: where these are finite, the gradient is."""
        return [self.grad_lse, self.own]

    def chunks(self, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """`(rows, gradient (rows, D))`; of an empty shard one that is empty. The rows may be changed then."""
        loss, dtype, whole = self.step.loss, self.step.dtype, whole_batch(self.embeddings, self.step)
        for rows in slices(len(weight), self.step.chunk_size):
            centres = weight[rows]
            inverse = inverse_norm(centres) if loss.normalizes else None
            directions = centres if inverse is None else centres * inverse
            gradient = torch.empty_like(centres)
            if len(centres):
                block, factor = self.others.gradient(whole, rows.start, directions)
                weights = factor * self.grad_lse[:, None]
                of_directions = weighted_sum(block, weights, self.embeddings, dtype)
                through_directions(of_directions, directions, inverse, loss.product_scale, gradient)
            add_rows(gradient, self.step.shard.columns - rows.start, self.own)
            yield rows, gradient


def whole_batch(embeddings: Tensor, step: Step) -> BatchSlice:
    """The batch as one slice, whose products nobody keeps."""
    return BatchSlice(slice(0, len(embeddings)), embeddings * step.loss.product_scale, None, step.dtype)
