"""ResNet-50 on CASIA-WebFace, CosFace with NDR.

    torchrun --nproc_per_node=4 train_v2.py configs/casia_ir50_cosface_ndr rec=/path/to/faces_webface_112x112

Hardware: 4 GPUs, 128 images each.
Source: NDR-FACE, in its recipe (configs/casia_ir50_cosface.py).

Published, NDR-FACE: TinyFace rank 1/5 61.4/66.5; QMUL-SurvFace TPR@FAR=.3/.1/.01/.001
51.8/27.1/7.5/2.3.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.casia_ir50_cosface import config as parent

config = deepcopy(parent)
config.regularizers = [("ndr", {"weight": 10, "ramp": "epoch"})]
