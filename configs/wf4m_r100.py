"""ResNet-100 on WebFace4M, AdaFace with ARoFace: 205,990 people, 4.2 million images.

    torchrun --nproc_per_node=4 train_v2.py configs/wf4m_r100 rec=/path/to/WebFace4M val_root=/path/to/bins

Hardware: 4 GPUs, 512 images each. Where they do not fit, batch_size=128 gradient_acc=4 gives the same global
batch (BatchNorm then looks at 128 images at a time).
Source: ARoFace (Saadabadi et al., ECCV 2024) and its public configs: SGD, 20 epochs, global batch 2048, the
learning rate falling linearly to 0, clipped gradient, a quarter of each batch adversarially misaligned.

Published, ARoFace: TinyFace rank 1/5 73.98/76.47.
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
config.loss = "adaface"
config.aroface = {"ratio": 0.75, "eta_scale": 0.1, "eta_theta": 0.1, "eta_t": 0.1, "steps": 1}
config.num_epoch = 20
config.batch_size = 512
config.lr_reference_batch = 1024
config.precision = "fp16"
config.channels_last = True
