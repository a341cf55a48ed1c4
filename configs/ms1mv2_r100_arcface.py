"""ResNet-100 on MS1MV2, ArcFace alone: what configs/ms1mv2_r100.py has to beat.

    torchrun --nproc_per_node=4 train_v2.py configs/ms1mv2_r100_arcface rec=/path/to/faces_emore

Hardware: 4 GPUs, 512 images each.
Source: the same recipe without ARoFace.

Published, insightface: IJB-C TAR@FAR=1e-4 96.37.
Published, ARoFace's baseline: IJB-S surveillance to single, rank 1, rank 5, 1 % FPIR 57.35/64.42/41.85.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.ms1mv2_r100 import config as parent

config = deepcopy(parent)
config.aroface = None
