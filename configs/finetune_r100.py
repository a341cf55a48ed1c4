"""A released network for a few new people: as good on everybody else as before, better on these.

    python train_v2.py configs/finetune_r100 rec=data/mine pretrained=released.pth
    python train_v2.py configs/finetune_r100 rec=data/mine pretrained=adaface.ckpt network=ir_101

Hardware: one GPU; a CPU does for a thousand images. rec is a folder with one sub-folder of aligned faces for
each person, five to fifty images each; val_targets a .bin set of yours, of other people (tools/make_bin.py).
The class centres start where the released network has these people. It learns slowly, its BatchNorm keeps its
statistics, since small batches of few people have others, and its features stay near those it had: it is its
own teacher. docs/finetuning.md has the reasons.

Measured by us on drawn faces alone (tests/test_fine_tuning.py, a small network of 40 people, 24 new ones, one
seed): 78 % on pairs of people whom neither saw after 20 steps, where training from scratch had 50 %.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "data/mine"
config.val_targets = []
config.network = "r100"
config.pretrained = "data/released.pth"
config.teacher = "pretrained"
config.init_head = "class_means"
config.freeze_bn = True
config.head_warmup_epoch = 1
config.lr = 0.01
config.lr_backbone = 0.001
config.layer_decay = 0.9
config.distillation = {"weight": 2.0}
config.loss = "cosface"
config.loss_args = {"s": 32, "m": 0.25}  # few classes: a large scale would be content at once
config.num_epoch = 10
config.batch_size = 64
config.scheduler = "cosine"
config.crop_prob = 0.1
config.low_res_prob = 0.1
config.photometric_prob = 0.1
config.precision = "auto"
config.channels_last = True
