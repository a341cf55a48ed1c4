"""The gradient of the logits of other classes, block by block, for the backward pass of `stream`.

For a block of cosines c_ij it is g_i·p_ij·∂z_ij/∂c_ij. Both classes return it without g_i, as a block times a
factor for each row, which lets float16 keep small probabilities (`products.py`).
"""

import torch
from torch import Tensor

from classifier.kept_products import BatchSlice
from classifier.products import rescaled_rows
from classifier.shard import Shard, fill_own
from classifier.step import Step
from utils.distributed import sum_together


class LinearLogits:
    """z = scale · cos, and the products are logits: the gradient is the probabilities.

    Args:
        lse: `(B,)`, finite.
    """

    def __init__(self, shard: Shard, lse: Tensor):
        self.own, self.lse = shard.own, lse

    def gradient(self, part: BatchSlice, start: int, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Block `(b, chunk)` and factor `(b, 1)`, with the classes from `start` on."""
        return part.probabilities(start, directions, self.lse[part.rows], self.own[part.rows])

    def reduced_gradients(self) -> tuple[float, None, dict[str, Tensor]]:
        """See `MovedLogits`: these logits read nothing but the cosines."""
        return 0.0, None, {}


class MovedLogits:
    """z = loss.other_logits(cos, own_cos, norms, statistics), which may read parameters of the loss too.

    Args:
        own_cos, norms, lse, grad_lse: `(B,)`; lse finite.
        tensors: name -> buffer or parameter of the loss as the forward pass had it, since another forward
            pass may have moved it on. Those that require a gradient get one.
    """

    def __init__(
        self,
        step: Step,
        own_cos: Tensor,
        norms: Tensor,
        lse: Tensor,
        grad_lse: Tensor,
        tensors: dict[str, Tensor],
    ):
        self.step, self.own_cos, self.norms, self.lse, self.grad_lse = step, own_cos, norms, lse, grad_lse
        self.tensors = tensors
        self.learnt = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
        self.grad_learnt = {name: torch.zeros_like(tensor) for name, tensor in self.learnt.items()}
        # (2, B): Σ_j p_ij·∂z_ij/∂(own_cos_i, norm_i); `reduced_gradients` multiplies it by g_i.
        self.grad_vectors = torch.stack([own_cos, norms]).zero_()

    def gradient(self, part: BatchSlice, start: int, directions: Tensor) -> tuple[Tensor, Tensor | float]:
        """Block `(b, chunk)` and factor `(b, 1)`, with the classes from `start` on."""
        rows, shard = part.rows, self.step.shard
        cos = part.products(start, directions)
        inputs = [tensor.detach().requires_grad_() for tensor in (cos, self.own_cos, self.norms)]
        with torch.enable_grad():
            logits = self.step.loss.other_logits(*inputs, rows, self.tensors)
        probability = (logits.detach() - self.lse[rows, None]).exp_()
        fill_own(probability, shard.own[rows], start, 0.0)
        grad_cos, *grad_vectors = torch.autograd.grad(
            logits, inputs, probability, retain_graph=bool(self.learnt), materialize_grads=True
        )
        self.grad_vectors[:, rows] += torch.stack(grad_vectors)[:, rows]
        if self.learnt:
            # Not in place: where the loss hands cosines through, autograd has returned `probability` itself.
            weighted = probability * self.grad_lse[rows, None]
            grads = torch.autograd.grad(logits, self.learnt.values(), weighted, materialize_grads=True)
            for total, gradient in zip(self.grad_learnt.values(), grads):
                total += gradient
        return rescaled_rows(grad_cos, self.step.dtype)

    def reduced_gradients(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Gradients of own_cos and norms `(B,)` and of each parameter by name, summed over all classes."""
        vectors = self.grad_vectors * self.grad_lse
        (grad_own_cos, grad_norms), *learnt = sum_together(vectors, *self.grad_learnt.values())
        return grad_own_cos, grad_norms, dict(zip(self.grad_learnt, learnt))
