"""Distillation: the features of a trained network, the teacher, as a target beside the labels.

The term is weight · mean(1 − cos(student, teacher)) over the global batch, half the squared distance of unit
features (on features: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015,
https://arxiv.org/abs/1412.6550). With `low_res` the student sees some of the images small and blurred, and
has to find the features of the sharp ones, as in F-SKD, https://arxiv.org/abs/2303.04681.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distributed import all_reduce, world_size
from utils.errors import require


class Distillation:
    """The term, and the view of the images that the student gets. Without a teacher: 0, and the images.

    Args:
        teacher: frozen, in evaluation mode, on the device of the images, with `input_order`; or None.
        student_order: colour order of the student; the images come in it.
        weight: of the term, > 0.
        low_res: share of the images that the student sees at low resolution, in [0, 1].
        sides: pixels a side of the low resolutions, in [4, 112); each such image gets one of them.
        input_order: not used here: what the teacher's file may need to be read.

    Attributes:
        seen: what the student saw of the last images.
        last_terms: {"distillation": mean of 1 − cos of the last batch}, for the log; {} without a teacher.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        student_order: str,
        weight: float = 1.0,
        low_res: float = 0.0,
        sides: list[int] = (16, 24, 32, 48),
        input_order: str | None = None,
    ):
        require(0 < weight < math.inf, "weight", weight, "> 0")
        require(0 <= low_res <= 1, "low_res", low_res, "in [0, 1]")
        require(len(sides) > 0 and all(4 <= s < 112 for s in sides), "sides", list(sides), "in [4, 112) each")
        self.teacher, self.weight, self.low_res, self.sides = teacher, weight, low_res, tuple(sides)
        self.turned = teacher is not None and teacher.input_order != student_order
        self.seen: Tensor | None = None
        self.last_terms: dict[str, Tensor] = {}

    def view(self, images: Tensor) -> Tensor:
        """What the student sees of the images `(b, 3, h, w)`; which are small is torch's draw on the CPU."""
        self.seen = images
        if self.teacher is None or not self.low_res:
            return images
        places = (torch.rand(len(images)) < self.low_res).nonzero().flatten()
        sizes = torch.randint(len(self.sides), (len(places),))
        self.seen = view = images.clone()
        for i, side in enumerate(self.sides):
            chosen = places[sizes == i].to(images.device)
            if len(chosen):
                small = F.interpolate(images[chosen], size=side, mode="area")
                view[chosen] = F.interpolate(
                    small, size=images.shape[2:], mode="bicubic", align_corners=False
                ).clamp_(-1, 1)
        return view

    def __call__(self, embeddings: Tensor, images: Tensor) -> Tensor | float:
        """The term over the global batch, the same on every rank; its gradient is scaled as the head's.

        Two numbers a rank cross the network. The caller's autocast is the teacher's too.

        Args:
            embeddings: `(b, D)`, the student's, of `view(images)`.
            images: `(b, 3, h, w)`, in the student's colour order.
        """
        if self.teacher is None:
            return 0.0
        with torch.no_grad():
            target = self.teacher(images.flip(1) if self.turned else images)
        distance = 1 - F.cosine_similarity(embeddings.float(), target.float())  # (b,)
        own_sum = distance.sum()
        total = all_reduce(torch.stack([own_sum.detach(), own_sum.new_tensor(float(len(distance)))]))
        mean = total[0] / total[1]
        self.last_terms = {"distillation": mean}
        # DDP averages over the ranks: the gradient is world size times the own share, the value is the mean.
        share = own_sum * (world_size() / total[1])
        return self.weight * (share + (mean - share).detach())
