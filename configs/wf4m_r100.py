"""ResNet-100 on WebFace4M: 205,990 people, 4.2 million images.

    torchrun --nproc_per_node=4 train_v2.py configs/wf4m_r100 rec=/path/to/WebFace4M val_root=/path/to/bins

Hardware: 4 GPUs, 512 images each. Where they do not fit, batch_size=128 gradient_acc=4 gives the same global
batch (BatchNorm then looks at 128 images at a time).
Source: insightface's margin for this data (CosFace, 0.4) in ARoFace's recipe (Saadabadi et al., ECCV 2024):
SGD, 20 epochs, global batch 2048, clipped gradient. `loss=adaface` trains AdaFace's.

Published, insightface's CosFace R100 on this data: IJB-C TAR@FAR=1e-4 97.19.
Published, AdaFace R100 on this data (another loss): LFW 99.80, CFP-FP 99.17, AgeDB 97.90, IJB-C 97.39,
TinyFace rank 1/5 72.02/74.52.
Measured by us: not yet.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "data/WebFace4M"
config.num_classes = 205990
config.num_image = 4235242
config.val_targets = ["lfw", "cfp_fp", "agedb_30"]
config.num_workers = 8
config.network = "r100"
config.loss = "cosface"
config.num_epoch = 20
config.batch_size = 512
config.lr_reference_batch = 1024
config.precision = "fp16"
config.channels_last = True
