"""ResNet-100 on WebFace12M, AdaFace alone: what configs/wf12m_r100.py has to beat.

    torchrun --nproc_per_node=4 train_v2.py configs/wf12m_r100_adaface rec=/path/to/WebFace12M

Hardware: 4 GPUs, 512 images each.
Source: the same recipe without ARoFace; AdaFace's own (configs/ms1mv2_ir101_adaface.py) is another.

Published, AdaFace: LFW 99.82, CFP-FP 99.26, CPLFW 94.57, CALFW 96.12, AgeDB 98.00, IJB-B 96.41, IJB-C 97.66,
TinyFace rank 1/5 72.29/74.97; IJB-S surveillance to single, rank 1, rank 5, 1 % FPIR 71.35/76.24/59.39.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.wf12m_r100 import config as parent

config = deepcopy(parent)
config.aroface = None
