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
    # Where the running mean and deviation of the norms start. From the defaults, 20 and 100, and with a share
    # of 0.01 a step, they would not reach this network's norms in 100 steps: k would be near 0 for all faces,
    # which is CosFace's margin.
    "initial_mean": 11,
    "initial_std": 2,
    "t_alpha": 0.05,
}
