"""ResNet-50 on CASIA-WebFace, AdaFace, NDR and ARoFace together.

    torchrun --nproc_per_node=4 train_v2.py configs/casia_ir50_adaface_ndr_aroface rec=/path/to/faces_webface

Hardware: 4 GPUs, 128 images each.
Source: ours; NDR-FACE's recipe with ARoFace's perturbation. Nobody has published the three together.

Published, to beat: TinyFace rank 1/5 62.9/68.1 (AdaFace and NDR, configs/casia_ir50_adaface_ndr.py).
Measured by us: not yet.
"""

from copy import deepcopy

from configs.casia_ir50_adaface_ndr import config as parent

config = deepcopy(parent)
config.aroface = {"ratio": 0.75, "eta_scale": 0.1, "eta_theta": 0.1, "eta_t": 0.1, "steps": 1}
