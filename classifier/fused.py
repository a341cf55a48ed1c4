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

from classifier.class_chunks import Chunk, ClassChunks
from classifier.class_update import ClassUpdate, add_rows
from classifier.kept_products import BatchSlice
from classifier.log_sum import LogSum, own_before_others
from classifier.other_logits import LinearLogits, MovedLogits
from classifier.own_classes import OwnClasses, add_own_gradients, through_directions
from classifier.products import product, rescaled_rows, weighted_sum
from classifier.step import Comparison, Step
from classifier.stream import product_blocks
from utils.distributed import all_reduce


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
        """What `Comparison` holds; takes what `StreamedClasses.forward` does, and the update."""
        loss, shard = step.loss, step.shard
        own = own_before_others(embeddings, norms, weight, step)
        whole, classes = whole_batch(embeddings, step), ClassChunks(weight, step)
        loss.reduce_statistics(product_blocks(classes, weight, [whole]), own.cos, norms, shard.own)

        others = OthersSum(whole, own, norms, step)
        for chunk in classes.walk(weight):
            others.add(chunk)
        compared = others.log_sum.over_ranks(own, norms)
        if compared.max_cos is not None:
            ctx.mark_non_differentiable(compared.max_cos)
        lse = compared.lse_others
        finite = lse.masked_fill(lse == -math.inf, 0)  # no other class: every sum is 0 anyway
        vectors = compared.own_cos, finite, *others.derivatives(finite)
        ctx.save_for_backward(embeddings, norms, weight, *vectors, *parameters)
        ctx.step, ctx.update, ctx.classes, ctx.buffers = step, update, classes, loss.saved_buffers()
        return tuple(compared)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_own_cos: Tensor, grad_lse: Tensor, grad_own_centres: Tensor | None, _):
        """Gradients of what `forward` got, but of the centres; takes what `StreamedClasses.backward` does."""
        embeddings, norms, weight, own_cos, lse, by_embedding, by_vector, *parameters = ctx.saved_tensors
        step, needs, classes = ctx.step, ctx.needs_input_grad[5:], ctx.classes
        learnt = step.loss.parameters_to_learn(parameters, needs)
        fixed = ctx.buffers | step.loss.parameters_to_learn(parameters, [False] * len(needs))
        vectors = own_cos, norms, lse, grad_lse
        grad_own, grad_norms, grad_parameters = 0.0, None, {}
        if any(needs):
            moved, whole = MovedLogits(step, *vectors, ctx.buffers | learnt), whole_batch(embeddings, step)
            for chunk in classes.walk(weight):
                moved.gradient(whole, chunk.start, chunk.directions)
            grad_own, grad_norms, grad_parameters = moved.reduced_gradients()
        elif not step.loss.is_linear:
            grad_own, grad_norms = all_reduce(by_vector * grad_lse)

        grad_embeddings = by_embedding * (step.loss.product_scale * grad_lse)[:, None]
        own = embeddings, weight, step, grad_own_cos + grad_own, grad_own_centres
        of_own_centres = add_own_gradients(grad_embeddings, *own)
        others = LinearLogits(step.shard, lse) if step.loss.is_linear else MovedLogits(step, *vectors, fixed)
        gradients = CentreGradients(step, classes, embeddings, grad_lse, others, of_own_centres)
        ctx.update.centre_gradients = gradients
        by_parameter = (grad_parameters.get(name) for name in learnt)
        return grad_embeddings, grad_norms, None, None, None, *by_parameter


class OthersSum:
    """Of the other classes that were added so far: Σ exp(z), and its derivatives.

    Attributes:
        log_sum: a `LogSum`; its peak is the reference of the derivatives too.
    """

    def __init__(self, whole: BatchSlice, own: OwnClasses, norms: Tensor, step: Step):
        self.whole, self.own_cos, self.norms, self.step = whole, own.cos, norms, step
        self.log_sum = LogSum.of_nothing(norms, step)
        self.by_embedding = torch.zeros_like(whole.left)  # (B, D): Σ_j exp(z_ij − peak_i)·∂z_ij/∂cos_ij·ŵ_j
        self.by_vector = torch.stack([norms, norms]).zero_()  # (2, B): by own_cos and norm

    def add(self, chunk: Chunk) -> None:
        """Add the classes of a chunk."""
        step, loss, rows = self.step, self.step.loss, self.whole.rows
        block = self.whole.products(chunk.start, chunk.directions)  # (B, chunk): cosines, or linear logits
        self.log_sum.compare(rows, block, self.norms, chunk.centres)
        logits = None
        if not loss.is_linear:
            inputs = [tensor.detach().requires_grad_() for tensor in (block, self.own_cos, self.norms)]
            with torch.enable_grad():
                logits = loss.other_logits(*inputs)
            block = logits.detach().clone()  # what its derivative needs may be in there
        decay = self.log_sum.add(rows, chunk.start, block)
        if decay is not None:
            self.by_embedding *= decay[:, None]
            self.by_vector *= decay
        if logits is not None:
            block, *by_vector = torch.autograd.grad(logits, inputs, block, materialize_grads=True)
            self.by_vector += torch.stack(by_vector)
        block, factor = rescaled_rows(block, step.dtype)
        vectors, length = chunk.operand(step.dtype)
        self.by_embedding += product(block, vectors, step.dtype).mul_(factor * length)

    def derivatives(self, lse: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's part of those of `lse`, which is over all ranks, and finite: `(B, D)` and `(2, B)`."""
        share = (self.log_sum.peak - lse).exp()
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
        classes: ClassChunks,
        embeddings: Tensor,
        grad_lse: Tensor,
        others: LinearLogits | MovedLogits,
        own: Tensor,
    ):
        self.step, self.classes, self.embeddings, self.grad_lse = step, classes, embeddings, grad_lse
        self.others, self.own = others, own

    def small(self) -> list[Tensor]:
        """What it is made of, over the batch: where these are finite, the gradient is."""
        return [self.grad_lse, self.own]

    def chunks(self, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """`(rows, gradient (rows, D))`; of an empty shard one that is empty. The rows may be changed then."""
        step, whole = self.step, whole_batch(self.embeddings, self.step)
        if not len(weight):
            yield slice(0, 0), torch.empty_like(weight)
        memory = torch.empty_like(weight[: step.chunk_size])
        for chunk in self.classes.walk(weight):
            block, factor = self.others.gradient(whole, chunk.start, chunk.directions)
            weights, out = factor * self.grad_lse[:, None], memory[: len(chunk.centres)]
            of_directions = weighted_sum(block, weights, self.embeddings, step.dtype, out)
            scale = step.loss.product_scale
            gradient = through_directions(of_directions, chunk.directions, chunk.inverse, scale)
            add_rows(gradient, step.shard.columns - chunk.start, self.own)
            yield chunk.rows, gradient


def whole_batch(embeddings: Tensor, step: Step) -> BatchSlice:
    """The batch as one slice, whose products nobody keeps."""
    return BatchSlice(slice(0, len(embeddings)), embeddings * step.loss.product_scale, None, step.dtype)
