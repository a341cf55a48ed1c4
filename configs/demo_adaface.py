"""AdaFace on the demo's faces.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_adaface

Hardware: as configs/demo_softmax.py, from which only the loss differs.
Measured by us, 100 of the people, one seed, four epochs: demo_hq 88.0 %, demo_lq 86.0 % (docs/losses.md).
"""

from copy import deepcopy

from configs.demo_softmax import config as parent

config = deepcopy(parent)
config.loss = "adaface"
config.loss_args = {
    "s": 16,
    "m": 0.2,
    # From the default 20 and 100, at a share of 0.01 a step, 100 steps would not come near the norms of this
    # network, whose k would stay next to 0: CosFace's margin for all.
    "initial_mean": 11,
    "initial_std": 2,
    "t_alpha": 0.05,
}
