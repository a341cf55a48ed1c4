"""ResNet-100 on WebFace4M, AdaFace, NDR and ARoFace together.

    torchrun --nproc_per_node=4 train_v2.py configs/wf4m_r100_adaface_ndr_aroface rec=/path/to/WebFace4M

Hardware: 4 GPUs, 512 images each.
Source: ours; ARoFace's recipe with NDR-FACE's term. Nobody has published the three together.

Published, to beat: TinyFace rank 1/5 73.98/76.47 (AdaFace and ARoFace, configs/wf4m_r100.py).
Measured by us: not yet.
"""

from copy import deepcopy

from configs.wf4m_r100 import config as parent

config = deepcopy(parent)
config.regularizers = [("ndr", {"weight": 10, "ramp": "epoch"})]
