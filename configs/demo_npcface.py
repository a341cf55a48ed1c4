"""NPCFace on the demo's faces.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_npcface

Hardware: as configs/demo_softmax.py, from which only the loss differs.
Measured by us, 100 of the people, one seed, four epochs: demo_hq 86.8 %, demo_lq 83.0 % (docs/losses.md).
"""

from copy import deepcopy

from configs.demo_softmax import config as parent

config = deepcopy(parent)
config.loss = "npcface"
config.loss_args = {
    "s": 16,
    "m0": 0.1,
    "m1": 0.1,
    "m_hard": 0.1,
    "a": 0.1,  # at first almost every class is hard, and s·a one more margin on top of m0
}
