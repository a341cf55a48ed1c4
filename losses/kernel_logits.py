"""The logits of other classes and their derivatives as Triton functions, each beside a formula of `losses/`.

Only the GPU kernels of `classifier/kernels/` import this file: Triton need not be installed elsewhere. A loss
names its function in `MarginLoss.kernel` and says in `kernel_inputs` what it gets. All have one signature:

    cos: block, cosines (of `linear`: scale · cos, or whatever the products are).
    row: a number for each sample, broadcast over the block, such as the cosine above which a class is hard.
    scalar: one number on the device, such as a running mean or a learnt threshold.
    scale, a, b: settings of the loss.

They return the logits z, ∂z/∂cos, ∂z/∂row and ∂z/∂scalar, each like the block; what a loss does not need
costs nothing. tests/test_kernel_logits.py compares all four with the torch formula and its derivative.
"""

import triton
import triton.language as tl

FAR_LEFT = tl.constexpr(-15.0)  # as in losses/binary.py


@triton.jit
def linear(cos, row, scalar, scale, a, b):
    """z = cos: the product holds the scale already."""
    return cos, 1.0 + 0.0 * cos, 0.0 * cos, 0.0 * cos


@triton.jit
def by_norm(cos, row, scalar, scale, a, b):
    """SphereFace: z = row · cos."""
    return row * cos, row + 0.0 * cos, cos, 0.0 * cos


@triton.jit
def raised(cos, row, scalar, scale, a, b):
    """MV-Softmax, NPCFace: z = scale · (a·cos + b) where cos > row, else scale · cos."""
    hard = cos > row
    slope = scale * tl.where(hard, a, 1.0)
    return scale * tl.where(hard, a * cos + b, cos), slope, 0.0 * cos, 0.0 * cos


@triton.jit
def curricular(cos, row, scalar, scale, a, b):
    """CurricularFace: z = scale · cos·(scalar + cos) where cos > row, else scale · cos."""
    hard = cos > row
    slope = scale * tl.where(hard, scalar + 2 * cos, 1.0)
    return scale * tl.where(hard, cos * (scalar + cos), cos), slope, 0.0 * cos, 0.0 * cos


@triton.jit
def circle(cos, row, scalar, scale, a, b):
    """Circle: z = scale · [cos + a]₊ · (cos − a), the weight [cos + a]₊ without gradient."""
    weight = scale * tl.maximum(cos + a, 0.0)
    return weight * (cos - a), weight, 0.0 * cos, 0.0 * cos


@triton.jit
def filtered(cos, row, scalar, scale, a, b):
    """Interclass filtering: z = b where cos > a, else scale · cos."""
    above = cos > a
    return tl.where(above, b, scale * cos), tl.where(above, 0.0, scale + 0.0 * cos), 0.0 * cos, 0.0 * cos


@triton.jit
def binary(cos, row, scalar, scale, a, b):
    """UniFace: z = log softplus(scale · cos − scalar)."""
    z = scale * cos - scalar
    far = tl.exp(tl.minimum(z, FAR_LEFT))
    near = tl.maximum(z, FAR_LEFT)
    softplus = tl.maximum(near, 0.0) + log1p(tl.exp(-tl.abs(near)))
    logit = tl.where(z < FAR_LEFT, z - far / 2, tl.log(softplus))
    slope = tl.where(z < FAR_LEFT, 1 - far / 2, 1 / ((1 + tl.exp(-near)) * softplus))
    return logit, scale * slope, 0.0 * cos, -slope


@triton.jit
def log1p(x):
    """log(1 + x) to the last digits for x >= 0 (Kahan): what rounding does to 1 + x, it undoes."""
    above = 1.0 + x
    is_small = above == 1.0
    return tl.where(is_small, x, tl.log(above) * (x / tl.where(is_small, 1.0, above - 1.0)))


@triton.jit
def hard_negatives(cos, row):
    """NPCFace's two row statistics: the cosine of a hard class, cos > row, and how many there are."""
    hard = cos > row
    return tl.where(hard, cos, 0.0), tl.where(hard, 1.0, 0.0)
