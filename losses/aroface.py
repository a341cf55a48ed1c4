"""ARoFace: train on faces that are misaligned in the way that hurts most.

Saadabadi et al., ARoFace: Alignment Robustness to Improve Low-Quality Face Recognition, ECCV 2024,
https://arxiv.org/abs/2407.14972. A share of the batch is scaled, rotated and shifted; the amounts start at
random and climb the training loss by sign-gradient steps through backbone and head.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from losses.input_gradient import only_input_gradient
from utils.distributed import rank, row_counts
from utils.errors import require
from utils.seeds import seed_of

# Columns of a warp's parameters: scale, θ, t_x, t_y.
IDENTITY = (1.0, 0.0, 0.0, 0.0)
LIMITS = (0.5, 0.8, 0.3, 0.3)  # how far a parameter may climb from where it started
START_STD = 0.01
STEP_STD = 0.001
MIXINGS = ("partition", "independent")
MIN_FORWARD_BATCH = 8  # images: BatchNorm after the last layer fails on one and has hardly a gradient on two
SAMPLES = 8  # warped images that are kept to be looked at
GRADIENT_PEAK = 256.0  # entry of the gradient that enters the backbone


def aroface_matrix(scale: Tensor, theta: Tensor, translation: Tensor) -> Tensor:
    """`(B, 2, 3)` [[s·cos θ, −s·sin θ, t_x], [s·sin θ, s·cos θ, t_y]], from output to input coordinates.

    Args:
        scale: `(B, 1)`; above 1 the face shrinks.
        theta: `(B, 1)`, radians.
        translation: `(B, 2)`, x and y, in half image sides.
    """
    cos, sin = scale * theta.cos(), scale * theta.sin()
    return torch.stack([cos, -sin, translation[:, :1], sin, cos, translation[:, 1:]], 1).view(-1, 2, 3)


def aroface_warp(images: Tensor, matrix: Tensor, *, exact_identity: bool = True) -> Tensor:
    """Images `(B, C, H, W)` in [-1, 1] under `matrix` `(B, 2, 3)`; what comes from outside is black (−1).

    Bilinear, with border padding, from the image with one pixel of black around it, so that all beyond is.

    Args:
        exact_identity: the identity matrix leaves an image as it is. False: as the original, which reads the
            coordinates of the image as those of the padded one, and so shrinks a face to W/(W + 2).
    """
    height, width = images.shape[2:]
    grid = F.affine_grid(matrix, images.shape, align_corners=False)
    if exact_identity:
        grid = grid * numbers_like(grid, (width / (width + 2), height / (height + 2)))
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    return F.grid_sample(padded, grid, padding_mode="border", align_corners=False)


class AlignmentPerturbation:
    """Replaces round((1 − ratio)·B) images of a batch by adversarially warped ones.

    Only these run through backbone and head. BatchNorm normalises them by their own statistics on this rank,
    also where it is synchronised over the ranks in training: a rank may have nothing to warp. If they are
    fewer than MIN_FORWARD_BATCH, clean images of the batch join them, which the loss does not see. Nothing
    keeps a trace of the pass: no gradient of a weight, no running statistic, no state of loss or head. What
    is random comes from a generator of this rank, seeded by torch's: ranks that were given one seed still
    draw differently.

    Departures from the public code: the step is clipped at start ± LIMITS (there scale at −0.5/+1.5 and t's
    upper bound around θ's start), and see `mixing` and `exact_identity`.

    Args:
        ratio: share of the batch that stays clean, in [0, 1].
        eta_scale, eta_theta, eta_t: sizes of an ascent step in scale, radians and half image sides, >= 0.
            Each batch draws its own from N(eta, STEP_STD²).
        steps: ascent steps, >= 1; each costs a forward and a backward pass of the images to be warped.
        mixing: "partition": each image appears once, clean or warped, at its place. "independent", as the
            original: the warped and the clean images are drawn independently of each other, so that some
            appear twice and some not at all.
        exact_identity: see `aroface_warp`.

    Attributes:
        samples: of the last batch in which any was warped, the first images that were, at most SAMPLES:
            (clean, warped), each `(n, 3, H, W)`, in the same order; () before.
    """

    def __init__(
        self,
        ratio: float = 0.75,
        eta_scale: float = 0.1,
        eta_theta: float = 0.1,
        eta_t: float = 0.1,
        steps: int = 1,
        mixing: str = "partition",
        exact_identity: bool = True,
    ):
        require(0 <= ratio <= 1, "ratio", ratio, "in [0, 1] (the clean share)")
        require(0 <= eta_scale < math.inf, "eta_scale", eta_scale, ">= 0")
        require(0 <= eta_theta < math.inf, "eta_theta", eta_theta, ">= 0 (radians)")
        require(0 <= eta_t < math.inf, "eta_t", eta_t, ">= 0 (half image sides)")
        require(isinstance(steps, int) and steps >= 1, "steps", steps, "a whole number >= 1")
        require(mixing in MIXINGS, "mixing", mixing, f"one of {MIXINGS}")
        require(isinstance(exact_identity, bool), "exact_identity", exact_identity, "True or False")
        self.ratio, self.etas, self.steps = ratio, (eta_scale, eta_theta, eta_t), steps
        self.mixing, self.exact_identity = mixing, exact_identity
        self.samples: tuple[Tensor, ...] = ()

    def __call__(
        self, backbone: nn.Module, head: nn.Module, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A batch of the same size with some images warped, and its labels. Every rank has to call this.

        Half precision: under the caller's autocast, as the training pass.

        Args:
            backbone: not in DDP, whose traffic belongs to the training pass; compiled or not.
            head: PartialFC; a rank that has nothing to warp joins its collectives with no sample.
            images: `(b, 3, H, W)` in [-1, 1].
            labels: `(b,)`, on any device.
        """
        assert not isinstance(backbone, DistributedDataParallel), "hand over the bare backbone"
        count, self.source = round((1 - self.ratio) * len(images)), torch.arange(len(images))
        if sum(row_counts(count)) == 0:
            return images, labels
        generator = generator_of_rank()
        places, clean, self.source = self._choose(len(images), count, generator)
        labels = labels[self.source]
        own_labels = labels[places]
        # Indices go to the device in one copy that nobody waits for; torch would wait for each of its own.
        parts = self.source, places, clean[: max(0, MIN_FORWARD_BATCH - count)]
        on_device = torch.cat(parts).to(images.device, non_blocking=True)
        source, places, company = on_device.split([len(part) for part in parts])
        images = images[source]
        chosen, companions = images[places], images[company]

        def embed(parameters: Tensor) -> Tensor:
            if count == 0:
                return images.new_zeros(0, head.weight.shape[1])
            return backbone(torch.cat([self._warp(chosen, parameters), companions]))[:count]

        def loss(embeddings: Tensor) -> Tensor:
            return head(embeddings, own_labels)

        start, eta = self._draw(chosen, generator)
        with only_input_gradient(backbone), head.only_input_gradient(), torch.enable_grad():
            parameters = self._climb(embed, loss, start, eta)
        if count:
            images[places] = self._warp(chosen, parameters)
            # Copies: a view would keep all that was warped in memory during the training pass.
            self.samples = chosen[:SAMPLES].clone(), images[places[:SAMPLES]]
        return images, labels

    def _choose(self, size: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The `count` places of the new batch that are warped, the others, and the image at each place."""
        places, clean = torch.randperm(size, generator=generator).tensor_split([count])
        source = torch.arange(size)
        if self.mixing == "independent":
            source = torch.randperm(size, generator=generator)
            source[places] = torch.randperm(size, generator=generator)[:count]
        return places, clean, source

    def _draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Where the parameters of each image start, `(n, 4)`, and the batch's step sizes, `(4,)`."""
        random = torch.randn(len(images) + 1, 4, generator=generator).to(images.dtype)
        eta = random[:1, :3] * STEP_STD + random.new_tensor(self.etas)
        start = random[1:] * START_STD + random.new_tensor(IDENTITY)
        drawn = torch.cat([start, eta[:, [0, 1, 2, 2]]]).to(images.device, non_blocking=True)
        return drawn[:-1], drawn[-1]

    def _climb(self, embed: Callable, loss: Callable, start: Tensor, eta: Tensor) -> Tensor:
        """The parameters `(n, 4)` after the ascent from `start`."""
        limits, climbed = numbers_like(start, LIMITS), torch.zeros_like(start)
        for _ in range(self.steps):
            parameters = (start + climbed).requires_grad_()
            climbed = climbed + eta * gradient_sign(embed(parameters), loss, parameters)
            climbed = climbed.clamp(-limits, limits)
        return start + climbed

    def _warp(self, images: Tensor, parameters: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            matrix = aroface_matrix(*parameters.split([1, 1, 2], 1))
            return aroface_warp(images, matrix, exact_identity=self.exact_identity)


def numbers_like(tensor: Tensor, values: tuple[float, ...]) -> Tensor:
    """`(len(values),)` on the device and of the type of `tensor`; nobody waits for the copy to a GPU."""
    return torch.tensor(values, dtype=tensor.dtype).to(tensor.device, non_blocking=True)


def generator_of_rank() -> torch.Generator:
    """A generator on the CPU, seeded by one draw of torch's own and the rank."""
    return torch.Generator().manual_seed(seed_of(int(torch.randint(2**62, ())), rank()))


def gradient_sign(embeddings: Tensor, loss: Callable[[Tensor], Tensor], parameters: Tensor) -> Tensor:
    """Sign of d loss(embeddings) / d parameters, for embeddings `(n, D)` that were computed from them.

    Between loss and backbone the gradient is scaled so that its largest entry is GRADIENT_PEAK, which changes
    no sign. float16 reaches from 6e-8 to 65,504: without the scale the gradient of a loss that is nearly 0
    would vanish, and that of an easy sample beside a hard one. Without embeddings `loss` is still called and
    differentiated, because other ranks wait in its collectives.
    """
    at_loss = embeddings.detach().to(parameters.dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at_loss), at_loss)
    if not len(embeddings):
        return torch.zeros_like(parameters)
    gradient = gradient / (gradient.abs().max() / GRADIENT_PEAK).clamp_min(torch.finfo(gradient.dtype).tiny)
    (gradient,) = torch.autograd.grad(embeddings, parameters, gradient.to(embeddings.dtype))
    return gradient.nan_to_num(posinf=1, neginf=-1).sign()  # inf keeps its sign, NaN gives 0
