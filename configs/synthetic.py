"""Random images, to measure how fast training is without any data on the disk.

    torchrun --nproc_per_node=8 train_v2.py configs/synthetic                   # one rank a GPU
    python train_v2.py configs/synthetic network=mbf batch_size=16 precision=fp32 num_steps=20   # a CPU

Hardware: any. There is nothing to learn in it: only speed, memory and the log mean something.
Source: the same size of job as insightface's speed configs. Measured by us: not yet.
"""

from easydict import EasyDict as edict

config = edict()
config.rec = "synthetic"
config.num_classes = 100_000
config.num_image = 500_000
config.network = "r50"
config.precision = "auto"
config.channels_last = True
config.num_steps = 200
config.save_all_states = False  # such a run is not resumed
