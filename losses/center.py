"""Regularisers with a vector for each class, sharded over the ranks with the class centres.

- Center loss (Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016,
  https://doi.org/10.1007/978-3-319-46478-7_31).
- DiscFace (Kim et al., DiscFace: Minimum Discrepancy Learning for Deep Face Recognition, ACCV 2020,
  https://doi.org/10.1007/978-3-030-69541-5_22).

The vectors start at 0, so that they do not depend on the number of ranks.
"""

import math

import torch
from torch import Tensor, nn

from losses.base import Batch, Regularizer
from utils.errors import require
from utils.unit_vectors import normalise


class Center(Regularizer):
    """weight/2·mean‖x_i − c_y‖², x the raw embedding, c_y a running centre of its class.

    After the term, c_y ← c_y − alpha·Σ(c_y − x_i)/(1 + n_y) over the n_y samples of class y in the global
    batch; a centre that would not be finite stays. No optimiser moves the centres.

    Args:
        weight: > 0.
        alpha: in (0, 1]; how fast the centres follow.
    """

    name = "center"

    def __init__(self, weight: float = 0.003, alpha: float = 0.5):
        super().__init__()
        require(0 < weight < math.inf, "weight", weight, "> 0")
        require(0 < alpha <= 1, "alpha", alpha, "in (0, 1]")
        self.weight, self.alpha = weight, alpha

    def prepare(self, num_local: int, embedding_size: int) -> None:
        self.class_rows = nn.Parameter(torch.zeros(num_local, embedding_size), requires_grad=False)

    def new_rows(self, batch: Batch) -> Tensor:
        own_rows, labels = batch.own_rows, batch.labels
        # The first sample of each class stands for it: equal labels get equal rows, to the last bit.
        first = (labels[:, None] == labels).int().argmax(1)
        total = torch.zeros_like(own_rows).index_add_(0, first, batch.raw - own_rows)
        count = torch.zeros_like(batch.norms).index_add_(0, first, torch.ones_like(batch.norms))
        moved = own_rows + self.alpha * total / (1 + count[:, None])
        return torch.where(moved.isfinite().all(1, keepdim=True), moved, own_rows)[first]

    def forward(self, batch: Batch) -> Tensor:
        distance = (batch.raw - batch.own_rows).square().sum(1)
        return self.weight / 2 * distance.mean()


class DiscFace(Regularizer):
    """weight·mean‖(e_i − ŵ_y) − b̂_y·min(‖b_y‖, max_norm)‖₂, b_y a learnt displacement for each class.

    What is left of an embedding's way to its centre has to be one and the same short vector for a class. An
    optimiser moves b, at sample_rate < 1 only the sampled classes', as the centres.

    Args:
        weight: λ, > 0.
        max_norm: the longest displacement, > 0; the distance between opposite directions is 2.
    """

    name = "disc"
    needs_own_centres = True

    def __init__(self, weight: float = 0.4, max_norm: float = 0.05):
        super().__init__()
        require(0 < weight < math.inf, "weight", weight, "> 0")
        require(0 < max_norm < math.inf, "max_norm", max_norm, "> 0")
        self.weight, self.max_norm = weight, max_norm

    def prepare(self, num_local: int, embedding_size: int) -> None:
        self.class_rows = nn.Parameter(torch.zeros(num_local, embedding_size))

    def forward(self, batch: Batch) -> Tensor:
        # b̂·min(‖b‖, max_norm), written so that b = 0 has a derivative: the identity's.
        norm = batch.own_rows.norm(dim=1, keepdim=True)
        displacement = batch.own_rows * (self.max_norm / norm.clamp_min(self.max_norm))
        difference = batch.embeddings - normalise(batch.own_centres) - displacement
        return self.weight * difference.norm(dim=1).mean()
