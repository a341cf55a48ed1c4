"""ResNet-100 on WebFace4M, ArcFace alone: what configs/wf4m_r100_arcface_aroface.py has to beat.

    torchrun --nproc_per_node=4 train_v2.py configs/wf4m_r100_arcface rec=/path/to/WebFace4M

Hardware: 4 GPUs, 512 images each.
Source: the same recipe without ARoFace.

Published, ARoFace's baseline: IJB-S surveillance to single, rank 1, rank 5, 1 % FPIR 69.26/74.31/57.06.
Published, insightface's CosFace R100 on this data (another loss): IJB-C TAR@FAR=1e-4 97.19.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.wf4m_r100_arcface_aroface import config as parent

config = deepcopy(parent)
config.aroface = None
