"""ResNet-100 on MS1MV2: 85,742 people, 5.8 million images.

    torchrun --nproc_per_node=4 train_v2.py configs/ms1mv2_r100 rec=/path/to/faces_emore

Hardware: 4 GPUs, 512 images each. Where they do not fit, batch_size=128 gradient_acc=4 gives the same global
batch (BatchNorm then looks at 128 images at a time).
Source: the ArcFace recipe of ARoFace (Saadabadi et al., ECCV 2024): SGD, 28 epochs, global batch 2048,
clipped gradient; without its alignment perturbation, which this version does not have yet.

Published, insightface's ArcFace R100 on this data: IJB-C TAR@FAR=1e-4 96.37.
Published, AdaFace R100 on this data (another loss): LFW 99.82, CFP-FP 98.49, AgeDB 98.05, IJB-C 96.89,
TinyFace rank 1/5 68.21/71.54.
Measured by us: not yet.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "data/faces_emore"
config.num_classes = 85742
config.num_image = 5822653
config.val_targets = ["lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"]
config.num_workers = 8
config.network = "r100"
config.loss = "arcface"
config.num_epoch = 28
config.batch_size = 512
config.lr_reference_batch = 1024
config.precision = "fp16"
config.channels_last = True
