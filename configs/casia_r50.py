"""AdaFace's ResNet-50 on CASIA-WebFace: 10,572 people, 0.5 million images. The small job of many papers.

    torchrun --nproc_per_node=4 train_v2.py configs/casia_r50 rec=/path/to/faces_webface_112x112

Hardware: 4 GPUs, 128 images each; on one GPU batch_size=512.
Source: the recipe of AdaFace (Kim et al., CVPR 2022), which NDR-FACE uses for its CosFace baseline: global
batch 512, 26 epochs (40-odd in NDR-FACE), steps at 12, 20 and 24, no weight decay on BatchNorm, three
augmentations. The casia_ir50_* presets build on this one; they are the rows of NDR-FACE's table.

Published, NDR-FACE's CosFace baseline: TinyFace rank 1/5 56.7/62.7.
Published, AdaFace R50 on this data (another loss): LFW 99.42, CFP-FP 96.41, CPLFW 89.97, CALFW 93.23,
AgeDB 94.38.
Measured by us: not yet.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "data/faces_webface_112x112"
config.num_classes = 10572
config.num_image = 490623
config.val_targets = ["lfw", "cfp_fp", "agedb_30"]
config.num_workers = 8
config.crop_prob = 0.2
config.low_res_prob = 0.2
config.photometric_prob = 0.2
config.network = "ir_50"
config.loss = "cosface"
config.num_epoch = 26
config.batch_size = 128
config.lr_reference_batch = 512
config.no_decay_norm_bias = True
config.scheduler = "multistep"
config.milestones = [12, 20, 24]
config.precision = "fp16"
config.channels_last = True
