"""MobileFaceNet on real faces of LFW, on a CPU: 1,324 people, 7,007 images; folds 9 and 10 of LFW to verify.

    torchrun --nproc_per_node=2 train_v2.py configs/lfw_mbf rec=/path/to/folder

The folder holds train.rec, train.idx and lfw_folds9_10.bin, whose people training never sees.
Hardware: two CPU cores. So little data, five images a person, gives no good face recognition; it shows that
the whole chain learns from real photographs. Hence the mild scale and margin, dropout and augmentations.

Measured by us, one seed, 9 epochs instead of 14: 88.3 % (89.3 % after 8, 86.2 % after 4). Chance is 50 %.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "data/lfw"
config.val_targets = ["lfw_folds9_10"]
config.verbose = 500  # a verification costs as much as some thirty steps
config.num_workers = 0  # two ranks keep two cores busy already
config.crop_prob = 0.1
config.low_res_prob = 0.1
config.photometric_prob = 0.1
config.network = "mbf"
config.embedding_size = 256
config.dropout = 0.2
config.loss = "cosface"
config.loss_args = {"s": 32, "m": 0.25}
config.num_epoch = 14
config.batch_size = 32  # small, because an epoch would have too few steps otherwise
config.lr = 0.05
config.warmup_epoch = 1
config.precision = "auto"
config.channels_last = True
