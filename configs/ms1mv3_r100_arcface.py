"""ResNet-100 on MS1MV3, ArcFace alone: what configs/ms1mv3_r100.py has to beat.

    torchrun --nproc_per_node=4 train_v2.py configs/ms1mv3_r100_arcface rec=/path/to/ms1m-retinaface-t1

Hardware: 4 GPUs, 512 images each.
Source: the same recipe without ARoFace.

Published, insightface: IJB-C TAR@FAR=1e-4 96.85.
Published, ARoFace's baseline: TinyFace rank 1/5 63.81/68.80.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.ms1mv3_r100 import config as parent

config = deepcopy(parent)
config.aroface = None
