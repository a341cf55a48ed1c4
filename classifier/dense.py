"""The reference engine of PartialFC: all logits of this rank at once; autograd does the rest."""

import math

import torch
from torch import Tensor

from classifier.kept_products import product
from classifier.shard import EVERY_SAMPLE, Shard
from utils.distributed import CopyToShards, SumOverShards, all_max


def dense(embeddings: Tensor, norms: Tensor, weight: Tensor, shard: Shard):
    """All logits of this rank at once; autograd does the rest. Takes and returns what `stream` does."""
    centres = shard.directions(weight)
    own_centres = shard.own_rows(weight) if shard.needs_own_centres else None
    own_cos = (embeddings[shard.rows] * centres[shard.columns]).sum(1)
    own_cos = SumOverShards.apply(shard.spread(own_cos))
    shard.advance(own_cos, norms)

    cos = product(embeddings, centres.T, shard.dtype)  # (B, n)
    with torch.no_grad():
        shard.reduce_rows(iter([(EVERY_SAMPLE, 0, cos)] if cos.shape[1] else []), own_cos, norms)
        max_cos = all_max(shard.largest_cosine(cos, norms, weight)) if shard.needs_max_cos else None
    logits = shard.other_logits(cos, CopyToShards.apply(own_cos), CopyToShards.apply(norms))
    is_own = shard.own[:, None] == torch.arange(len(weight), device=weight.device)
    logits = logits.masked_fill(is_own, -math.inf)

    lowest = logits.new_full((len(logits), 1), torch.finfo(logits.dtype).min)
    peak = all_max(torch.cat([logits.detach(), lowest], 1).amax(1))  # finite, also with no other class
    total = SumOverShards.apply((logits - peak[:, None]).exp().sum(1))
    lse_others = torch.where(total > 0, peak + torch.where(total > 0, total, 1).log(), -math.inf)
    return own_cos, lse_others, own_centres, max_cos
