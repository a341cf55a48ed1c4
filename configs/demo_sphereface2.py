"""SphereFace2 on the demo's faces.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_sphereface2

Hardware: as configs/demo_softmax.py, from which only the loss differs.
Measured by us, 100 of the people, one seed, four epochs: demo_hq 89.5 %, demo_lq 84.7 % (docs/losses.md).
"""

from copy import deepcopy

from configs.demo_softmax import config as parent

config = deepcopy(parent)
config.loss = "sphereface2"
config.loss_args = {"s": 16, "m": 0.2, "weight": 20}
