"""A new network whose embeddings can be compared with those that an old one has left in a gallery.

    python train_v2.py configs/compatible_r50 rec=data/faces_webface_112x112 teacher=old.pth

Hardware: as for a training from scratch on the data: 4 GPUs, 128 images each, for those of this preset.
The old network is the teacher; the class centres are the means of its features and stay, so that the new
features gather where the old ones lie; a term draws each feature to its old one. The new network may be of
another kind and size; its embedding_size has to be the old one's.

Source: Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020,
https://arxiv.org/abs/2003.11942, with the old network's class means as the fixed classifier.
Measured by us on drawn faces alone (small networks, 40 people, 100 steps of 16, one seed): pairs of one old
and one new embedding 80.0 %, of two old ones 81.7 %, of two new ones 75.0 %.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "data/faces_webface_112x112"
config.val_targets = ["lfw", "cfp_fp", "agedb_30"]
config.num_workers = 8
config.network = "r50"
config.teacher = "data/old.pth"
config.init_head = "class_means"
config.freeze = ["head"]
config.distillation = {"weight": 10.0}
config.loss = "cosface"
config.loss_args = {"s": 32, "m": 0.2}  # the old features do not reach the margins of a free classifier
config.num_epoch = 26
config.batch_size = 128
config.lr_reference_batch = 512
config.scheduler = "multistep"
config.milestones = [12, 20, 24]
config.low_res_prob = 0.2
config.crop_prob = 0.2
config.photometric_prob = 0.2
config.precision = "fp16"
config.channels_last = True
