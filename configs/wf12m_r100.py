"""ResNet-100 on WebFace12M: 617,970 people, 12.7 million images.

    torchrun --nproc_per_node=4 train_v2.py configs/wf12m_r100 rec=/path/to/WebFace12M val_root=/path/to/bins

Hardware: 4 GPUs, 512 images each. Where they do not fit, batch_size=128 gradient_acc=4 gives the same global
batch (BatchNorm then looks at 128 images at a time).
sample_rate=0.2 makes the head cheaper (published with it: 97.60).
Source: insightface's margin for this data (CosFace, 0.4) in ARoFace's recipe (Saadabadi et al., ECCV 2024):
SGD, 20 epochs, global batch 2048, clipped gradient. `loss=adaface` trains AdaFace's.

Published, insightface's CosFace R100 on this data: IJB-C TAR@FAR=1e-4 97.59.
Published, AdaFace R100 on this data (another loss): LFW 99.82, CFP-FP 99.26, AgeDB 98.00, IJB-C 97.66,
TinyFace rank 1/5 72.29/74.97.
Measured by us: not yet.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "data/WebFace12M"
config.num_classes = 617970
config.num_image = 12720066
config.val_targets = ["lfw", "cfp_fp", "agedb_30"]
config.num_workers = 8
config.network = "r100"
config.loss = "cosface"
config.num_epoch = 20
config.batch_size = 512
config.lr_reference_batch = 1024
config.precision = "fp16"
config.channels_last = True
