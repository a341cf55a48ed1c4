"""ArcFace's and CosFace's margins at once on the demo's faces, half of each.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_combined

Hardware: as configs/demo_softmax.py, from which only the loss differs.
Measured by us, 100 of the people, one seed, four epochs: demo_hq 91.3 %, demo_lq 86.2 % (docs/losses.md).
"""

from copy import deepcopy

from configs.demo_softmax import config as parent

config = deepcopy(parent)
config.loss = "combined"
config.loss_args = {"s": 16, "margin_list": (1.0, 0.1, 0.1)}
