"""ResNet-50 on CASIA-WebFace, AdaFace.

    torchrun --nproc_per_node=4 train_v2.py configs/casia_ir50_adaface rec=/path/to/faces_webface_112x112

Hardware: 4 GPUs, 128 images each.
Source: AdaFace's recipe at NDR-FACE's length; num_epoch=26 is AdaFace's own.

Published, NDR-FACE's baseline: TinyFace rank 1/5 61.8/66.8; QMUL-SurvFace TPR@FAR=.3/.1/.01/.001
46.7/24.8/6.1/2.2.
Published, AdaFace: LFW 99.42, CFP-FP 96.41, CPLFW 89.97, CALFW 93.23, AgeDB 94.38.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.casia_ir50_cosface import config as parent

config = deepcopy(parent)
config.loss = "adaface"
