"""ResNet-50 on CASIA-WebFace, AdaFace with NDR.

    torchrun --nproc_per_node=4 train_v2.py configs/casia_ir50_adaface_ndr rec=/path/to/faces_webface_112x112

Hardware: 4 GPUs, 128 images each.
Source: NDR-FACE, in its recipe (configs/casia_ir50_cosface.py).

Published, NDR-FACE: TinyFace rank 1/5 62.9/68.1; QMUL-SurvFace TPR@FAR=.3/.1/.01/.001
59.0/34.5/9.1/3.1.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.casia_ir50_adaface import config as parent

config = deepcopy(parent)
config.regularizers = [("ndr", {"weight": 10, "ramp": "epoch"})]
