"""ResNet-100 on WebFace4M, ArcFace with ARoFace.

    torchrun --nproc_per_node=4 train_v2.py configs/wf4m_r100_arcface_aroface rec=/path/to/WebFace4M

Hardware: 4 GPUs, 512 images each.
Source: as configs/wf4m_r100.py, with ArcFace.

Published, ARoFace: IJB-S surveillance to single, rank 1, rank 5, 1 % FPIR 70.96/75.54/58.67.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.wf4m_r100 import config as parent

config = deepcopy(parent)
config.loss = "arcface"
config.loss_args = {"gradient": "straight_through"}  # as the published models were trained
