"""AdaFace's ResNet-101 on MS1MV2, which its tables call R100.

    torchrun --nproc_per_node=4 train_v2.py configs/ms1mv2_ir101_adaface rec=/path/to/faces_emore

Hardware: 4 GPUs, 128 images each.
Source: AdaFace (Kim et al., CVPR 2022), as configs/ms1mv2_ir50_adaface.py.

Published, AdaFace: LFW 99.82, CFP-FP 98.49, CPLFW 93.53, CALFW 96.08, AgeDB 98.05, IJB-B 95.67, IJB-C 96.89,
TinyFace rank 1/5 68.21/71.54; IJB-S surveillance to single, rank 1, rank 5, 1 % FPIR 65.26/70.53/51.66.
Published, CVLface with the same weights: IJB-B 95.59, IJB-C 96.81, TinyFace rank 1/5 68.11/71.49.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.ms1mv2_ir50_adaface import config as parent

config = deepcopy(parent)
config.network = "ir_101"
