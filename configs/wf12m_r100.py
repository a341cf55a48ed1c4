"""ResNet-100 on WebFace12M, AdaFace with ARoFace: 617,970 people, 12.7 million images.

    torchrun --nproc_per_node=4 train_v2.py configs/wf12m_r100 rec=/path/to/WebFace12M val_root=/path/to/bins

Hardware: 4 GPUs, 512 images each. Where they do not fit, batch_size=128 gradient_acc=4 gives the same global
batch (BatchNorm then looks at 128 images at a time).
sample_rate=0.2 makes the head cheaper (insightface with CosFace: 97.60 instead of 97.59 on IJB-C).
Source: ARoFace (Saadabadi et al., ECCV 2024) and its public configs: SGD, 20 epochs, global batch 2048, the
learning rate falling linearly to 0, clipped gradient, a quarter of each batch adversarially misaligned.

Published, ARoFace: TinyFace rank 1/5 74.00/76.87 (the row says WebFace4M, next to AdaFace's on WebFace12M);
IJB-S surveillance to single, rank 1, rank 5, 1 % FPIR 72.28/77.93/61.43.
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
config.loss = "adaface"
config.aroface = {"ratio": 0.75, "eta_scale": 0.1, "eta_theta": 0.1, "eta_t": 0.1, "steps": 1}
config.num_epoch = 20
config.batch_size = 512
config.lr_reference_batch = 1024
config.precision = "fp16"
config.channels_last = True
