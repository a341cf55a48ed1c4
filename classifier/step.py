"""What an engine gets for one step, and what it returns.

Shapes: B samples of the global batch, n classes of this rank that take part, D the embedding size.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from classifier.shard import Shard
from classifier.step_loss import StepLoss


class Step(NamedTuple):
    """All that an engine gets, beside the embeddings and the centres.

    Attributes:
        dtype: of the matrix products.
        chunk_size: classes that `stream` takes at a time.
        needs_max_cos, needs_own_centres: whether a regulariser asks for them.
        kernels: whether `stream` runs in GPU kernels.
        filter_gradients: whether these leave out tiles whose probabilities are too small to count.
    """

    loss: StepLoss
    shard: Shard
    dtype: torch.dtype
    chunk_size: int
    needs_max_cos: bool
    needs_own_centres: bool
    kernels: bool = False
    filter_gradients: bool = False


class Comparison(NamedTuple):
    """How the global batch stands to the classes of all ranks; equal on every rank.

    Attributes:
        own_cos: `(B,)`, cosine of each sample with its own class, with gradient.
        lse_others: `(B,)`, log-sum-exp of the logits of all other classes, with gradient; -inf without any.
        own_centres: `(B, D)`, the raw centre of each sample's class, with gradient; None where nobody asks.
        max_cos: `(B,)`, the largest cosine with any class, without gradient; None where nobody asks.
    """

    own_cos: Tensor
    lse_others: Tensor
    own_centres: Tensor | None
    max_cos: Tensor | None
