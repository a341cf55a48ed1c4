"""NormFace on the demo's faces: cosines in place of inner products, and no margin.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_normface

Hardware: as configs/demo_softmax.py, from which only the loss differs.
Measured by us, 100 of the people, one seed, four epochs: demo_hq 87.7 %, demo_lq 84.0 % (docs/losses.md).
"""

from copy import deepcopy

from configs.demo_softmax import config as parent

config = deepcopy(parent)
config.loss = "normface"
config.loss_args = {"s": 16}
