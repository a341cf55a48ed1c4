"""CosFace and ARoFace on the demo's faces: a quarter of each batch is adversarially misaligned.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_aroface

Hardware: as configs/demo_softmax.py. Only aroface differs from configs/demo_cosface.py.
Measured by us, 100 of the people, one seed, four epochs: demo_hq 88.7 %, demo_lq 85.2 % (docs/losses.md).
"""

from copy import deepcopy

from configs.demo_cosface import config as parent

config = deepcopy(parent)
config.aroface = {"ratio": 0.75}
