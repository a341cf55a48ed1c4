"""ResNet-50 on CASIA-WebFace, ArcFace with NDR.

    torchrun --nproc_per_node=4 train_v2.py configs/casia_ir50_arcface_ndr rec=/path/to/faces_webface_112x112

Hardware: 4 GPUs, 128 images each.
Source: NDR-FACE, in its recipe (configs/casia_ir50_cosface.py).

Published: NDR-FACE has code for it and no number; CosFace with NDR has TinyFace rank 1/5 61.4/66.5.
Measured by us: not yet.
"""

from copy import deepcopy

from configs.casia_ir50_cosface import config as parent

config = deepcopy(parent)
config.loss = "arcface"
config.regularizers = [("ndr", {"weight": 10, "ramp": "epoch", "over": "all"})]  # "all": as that code does
