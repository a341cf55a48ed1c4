"""ResNet-100 on MS1MV3: 93,431 people, 5.2 million images.

    torchrun --nproc_per_node=4 train_v2.py configs/ms1mv3_r100 rec=/path/to/ms1m-retinaface-t1

Hardware: 4 GPUs, 512 images each. Where they do not fit, batch_size=128 gradient_acc=4 gives the same global
batch (BatchNorm then looks at 128 images at a time).
Source: the ArcFace recipe of ARoFace (Saadabadi et al., ECCV 2024): SGD, 20 epochs, global batch 2048,
clipped gradient; without its alignment perturbation, which this version does not have yet.

Published, insightface's ArcFace R100 on this data: IJB-C TAR@FAR=1e-4 96.85.
Published, ARoFace's ArcFace baseline on this data: TinyFace rank 1/5 63.81/68.80 (with ARoFace 67.54/71.05).
Measured by us: not yet.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "data/ms1m-retinaface-t1"
config.num_classes = 93431
config.num_image = 5179510
config.val_targets = ["lfw", "cfp_fp", "agedb_30"]
config.num_workers = 8
config.network = "r100"
config.loss = "arcface"
config.num_epoch = 20
config.batch_size = 512
config.lr_reference_batch = 1024
config.precision = "fp16"
config.channels_last = True
