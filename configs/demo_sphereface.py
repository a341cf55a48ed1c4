"""SphereFace on the demo's faces.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_sphereface

Hardware: as configs/demo_softmax.py, from which only the loss differs.
Measured by us, 100 of the people, one seed, four epochs: demo_hq 89.7 %, demo_lq 85.2 % (docs/losses.md).
"""

from copy import deepcopy

from configs.demo_softmax import config as parent

config = deepcopy(parent)
config.loss = "sphereface"
config.loss_args = {
    "m": 3,
    "lambda_rate": 5,  # λ reaches its 5 after 40 of the 100 steps; the default 0.1 would after 1,990
}
