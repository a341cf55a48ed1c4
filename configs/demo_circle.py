"""Circle loss on the demo's faces.

    torchrun --nproc_per_node=2 train_v2.py configs/demo_circle

Hardware: as configs/demo_softmax.py, from which only the loss differs.
Measured by us: not yet.
"""

from configs.demo_softmax import config

config.loss = "circle"
config.loss_args = {"gamma": 32}  # what pulls a face to its centre is up to γ·(1 + m): 40, not 320
