"""ResNet-100 on MS1MV3, ArcFace with ARoFace: 93,431 people, 5.2 million images.

    torchrun --nproc_per_node=4 train_v2.py configs/ms1mv3_r100 rec=/path/to/ms1m-retinaface-t1

Hardware: 4 GPUs, 512 images each. Where they do not fit, batch_size=128 gradient_acc=4 gives the same global
batch (BatchNorm then looks at 128 images at a time).
Source: ARoFace (Saadabadi et al., ECCV 2024) and its public configs: SGD, 20 epochs, global batch 2048, the
learning rate falling linearly to 0, clipped gradient, a quarter of each batch adversarially misaligned.

Published, ARoFace: TinyFace rank 1/5 67.54/71.05.
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
config.loss_args = {"gradient": "straight_through"}  # as the published models were trained
config.aroface = {"ratio": 0.75, "eta_scale": 0.1, "eta_theta": 0.1, "eta_t": 0.1, "steps": 1}
config.num_epoch = 20
config.batch_size = 512
config.lr_reference_batch = 1024
config.precision = "fp16"
config.channels_last = True
