"""All three margins at once on the demo's faces, together about as large as CosFace's 0.35 at θ = π/2.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_combined

Hardware: as configs/demo_softmax.py, from which only the loss differs.
Measured by us: not yet.
"""

from configs.demo_softmax import config

config.loss = "combined"
config.loss_args = {"s": 16, "margin_list": (1.0, 0.1, 0.1)}
