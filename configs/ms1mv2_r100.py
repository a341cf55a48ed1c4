"""ResNet-100 on MS1MV2, ArcFace with ARoFace: 85,742 people, 5.8 million images.

    torchrun --nproc_per_node=4 train_v2.py configs/ms1mv2_r100 rec=/path/to/faces_emore

Hardware: 4 GPUs, 512 images each. Where they do not fit, batch_size=128 gradient_acc=4 gives the same global
batch (BatchNorm then looks at 128 images at a time).
Source: ARoFace (Saadabadi et al., ECCV 2024) and its public configs: SGD, 28 epochs, global batch 2048, the
learning rate falling linearly to 0, clipped gradient, a quarter of each batch adversarially misaligned.

Published, ARoFace: TinyFace rank 1/5 67.32/72.45; IJB-S surveillance to single, rank 1, rank 5, 1 % FPIR
61.65/67.6/47.87.
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
config.loss_args = {"gradient": "straight_through"}  # as the published models were trained
config.aroface = {"ratio": 0.75, "eta_scale": 0.1, "eta_theta": 0.1, "eta_t": 0.1, "steps": 1}
config.num_epoch = 28
config.batch_size = 512
config.lr_reference_batch = 1024
config.precision = "fp16"
config.channels_last = True
