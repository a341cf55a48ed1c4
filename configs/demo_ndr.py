"""CosFace and Noise Direction Regularisation on the demo's faces.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_ndr

Hardware: as configs/demo_softmax.py. Only ndr differs from configs/demo_cosface.py.
Measured by us, 100 of the people, one seed, four epochs: demo_hq 86.7 %, demo_lq 82.3 % (docs/losses.md).
"""

from copy import deepcopy

from configs.demo_cosface import config as parent

config = deepcopy(parent)
ndr = {
    "weight": 2.5,  # a quarter of the paper's, as the scale is
    "max_cos": 0.35,  # a random direction comes as near as 0.31 to one of 500 centres in 128 dimensions
    "max_age": 25,  # in steps: directions that were stored while the network was untrained leave soon
}
config.regularizers = [("ndr", ndr)]
