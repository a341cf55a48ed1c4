"""A released network for small, blurred faces, by low-rank adapters that leave it what it knows of good ones.

    python train_v2.py configs/lowres_r100_lora rec=data/tinyface pretrained=released.pth

Hardware: one GPU. rec is data of the domain, such as TinyFace's training half; without any, the data of the
released network do too, as the student sees half of the images at 16 to 48 pixels while its teacher sees them
whole. Adapters of rank 8 in every linear layer and convolution learn, 3 % of r100's parameters; all else
rests.

Source: adapters, rank 8, AdamW, 5e-4 and weight decay 0.1 are PETALface's for TinyFace (Narayan et al., WACV
2025, https://arxiv.org/abs/2412.07771; there in a Swin transformer, in two branches that an image quality
mixes); sharp teacher and blurred student are F-SKD's (https://arxiv.org/abs/2303.04681).
Measured by us on drawn faces alone, one seed, two CPU cores, six minutes: the network of the demo, trained on
with its own people.

    python tools/make_demo.py --out data/demo --identities 160
    python train_v2.py configs/demo batch_size=64
    python train_v2.py configs/lowres_r100_lora rec=data/demo pretrained=work_dirs/demo/model.pt network=mbf
        embedding_size=128 'network_args={blocks:[1,2,3,1],scale:1}' batch_size=64 num_steps=200 num_workers=0

Pairs of other people, small and blurred (demo_lq): 83.0 -> 84.7 %, TAR at FAR 0.33 % 24.7 -> 31.0 %; good
ones (demo_hq): 88.0 -> 89.7 %, 38.7 -> 45.7 %. The ten folds differ by 3 to 4 points, and it had seen
its people for three epochs only: how much of this is the recipe's, and how much mere further training, is
open. At full size: not yet.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "data/tinyface"
config.val_targets = []
config.network = "r100"
config.pretrained = "data/released.pth"
config.teacher = "pretrained"
config.lora = {"rank": 8}
config.init_head = "class_means"
config.distillation = {"weight": 5.0, "low_res": 0.5}
config.loss = "adaface"
config.num_epoch = 20
config.batch_size = 128
config.optimizer = "adamw"
config.lr = 5e-4
config.weight_decay = 0.1
config.warmup_epoch = 1
config.scheduler = "cosine"
config.crop_prob = 0.2
config.low_res_prob = 0.2
config.photometric_prob = 0.2
config.precision = "auto"
config.channels_last = True
