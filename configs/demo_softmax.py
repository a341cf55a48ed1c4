"""Plain softmax on the demo's faces, 100 steps: what every other demo_* loss has to beat in the same time.

    python tools/make_demo.py --out data/demo
    torchrun --nproc_per_node=2 train_v2.py configs/demo_softmax

Hardware: two CPU cores, about a minute; as one process, with batch_size=64.
The other demo_* presets build on this one and change the loss and nothing else. Their scales are about half
the papers' and their margins smaller: 500 people, 128 dimensions and less than an epoch do not need, and
could not reach, what suits a hundred thousand people and twenty epochs.

Measured by us: not yet.
"""

from configs.demo import config

config.loss = "softmax"
config.loss_args = {}
config.num_steps = 100
config.warmup_epoch = 0.08  # 10 steps
config.verbose = 0  # the pairs are seen once, at the end
config.save_all_states = False  # it is over before anyone would resume it
