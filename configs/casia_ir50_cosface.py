"""ResNet-50 on CASIA-WebFace, CosFace: NDR-FACE's baseline.

    torchrun --nproc_per_node=4 train_v2.py configs/casia_ir50_cosface rec=/path/to/faces_webface_112x112

Hardware: 4 GPUs, 128 images each.
Source: NDR-FACE's recipe: AdaFace's, as in configs/casia_r50.py, for some 40 epochs.

Published, NDR-FACE: TinyFace rank 1/5 56.7/62.7; QMUL-SurvFace TPR@FAR=.3/.1/.01/.001
45.2/23.0/6.1/1.2.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.casia_r50 import config as parent

config = deepcopy(parent)
config.num_epoch = 40
