"""CosFace and DiscFace's regulariser on the demo's faces.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_disc

Hardware: as configs/demo_softmax.py. Only disc differs from configs/demo_cosface.py.
Measured by us, 100 of the people, one seed, four epochs: demo_hq 88.8 %, demo_lq 85.2 % (docs/losses.md).
"""

from copy import deepcopy

from configs.demo_cosface import config as parent

config = deepcopy(parent)
config.regularizers = ["disc"]
