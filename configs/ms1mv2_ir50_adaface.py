"""AdaFace's ResNet-50 on MS1MV2: 85,742 people, 5.8 million images.

    torchrun --nproc_per_node=4 train_v2.py configs/ms1mv2_ir50_adaface rec=/path/to/faces_emore

Hardware: 4 GPUs, 128 images each; on one GPU batch_size=512.
Source: AdaFace (Kim et al., CVPR 2022): global batch 512, 26 epochs, steps at 12, 20 and 24, no weight decay
on BatchNorm, three augmentations of 20 % each.

Published, AdaFace: LFW 99.82, CFP-FP 97.86, CPLFW 92.83, CALFW 96.07, AgeDB 97.85, IJB-B 94.82, IJB-C 96.27.
Published, CVLface with the same weights: IJB-B 94.86, IJB-C 96.20, TinyFace rank 1/5 64.99/68.88.
Measured by us: not yet.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "data/faces_emore"
config.num_classes = 85742
config.num_image = 5822653
config.val_targets = ["lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"]
config.num_workers = 8
config.crop_prob = 0.2
config.low_res_prob = 0.2
config.photometric_prob = 0.2
config.network = "ir_50"
config.loss = "adaface"
config.num_epoch = 26
config.batch_size = 128
config.lr_reference_batch = 512
config.no_decay_norm_bias = True
config.scheduler = "multistep"
config.milestones = [12, 20, 24]
config.precision = "fp16"
config.channels_last = True
