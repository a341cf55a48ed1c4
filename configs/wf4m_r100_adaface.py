"""ResNet-100 on WebFace4M, AdaFace alone: what configs/wf4m_r100.py has to beat.

    torchrun --nproc_per_node=4 train_v2.py configs/wf4m_r100_adaface rec=/path/to/WebFace4M

Hardware: 4 GPUs, 512 images each.
Source: the same recipe without ARoFace; AdaFace's own (configs/ms1mv2_ir101_adaface.py) is another.

Published, AdaFace: LFW 99.80, CFP-FP 99.17, CPLFW 94.63, CALFW 96.05, AgeDB 97.90, IJB-B 96.03, IJB-C 97.39,
TinyFace rank 1/5 72.02/74.52.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.wf4m_r100 import config as parent

config = deepcopy(parent)
config.aroface = None
