"""The reference engine: all logits of this rank at once, and autograd does the rest.

Short and obviously right. It holds several matrices (batch, classes of this rank); `stream` holds none.
"""

import math

import torch
from torch import Tensor

from classifier.products import product
from classifier.step import Comparison, Step
from classifier.step_loss import EVERY_SAMPLE
from utils.distributed import CopyToShards, SumOverShards, all_max


def dense(embeddings: Tensor, norms: Tensor, weight: Tensor, step: Step) -> Comparison:
    """Compare the batch with the classes of all ranks. Takes and returns what `stream` does."""
    loss, shard = step.loss, step.shard
    centres = loss.directions(weight)
    own_centres = shard.gather_own(weight) if step.needs_own_centres else None
    own_cos = (embeddings[shard.rows] * centres[shard.columns]).sum(1)
    own_cos = SumOverShards.apply(shard.to_batch(own_cos))
    loss.update_state(own_cos, norms)

    cos = product(embeddings, centres.T, step.dtype)  # (B, n)
    with torch.no_grad():
        blocks = [(EVERY_SAMPLE, 0, cos)] if cos.shape[1] else []
        loss.reduce_statistics(iter(blocks), own_cos, norms, shard.own)
        max_cos = all_max(loss.largest_cosine(cos, norms, weight)) if step.needs_max_cos else None
    # What is equal on every rank enters the shard here; the gradients of all shards are summed behind it.
    tensors = {name: CopyToShards.apply(p) for name, p in loss.parameters_of_others().items()}
    shared = CopyToShards.apply(own_cos), CopyToShards.apply(norms)
    logits = loss.other_logits(cos, *shared, tensors=tensors)
    is_own = shard.own[:, None] == torch.arange(len(weight), device=weight.device)
    logits = logits.masked_fill(is_own, -math.inf)

    lowest = logits.new_full((len(logits), 1), torch.finfo(logits.dtype).min)
    peak = all_max(torch.cat([logits.detach(), lowest], 1).amax(1))  # finite, also with no other class
    total = SumOverShards.apply((logits - peak[:, None]).exp().sum(1))
    lse_others = torch.where(total > 0, peak + torch.where(total > 0, total, 1).log(), -math.inf)
    return Comparison(own_cos, lse_others, own_centres, max_cos)
