"""Plain softmax on the demo's faces, 100 steps: what every other demo_* loss has to beat in the same time.

    python tools/make_demo.py --out data/demo
    torchrun --nproc_per_node=2 train_v2.py configs/demo_softmax

Hardware: two CPU cores, about a minute; as one process, with batch_size=64.
The other demo_* presets build on this one and change the loss and nothing else. Their scale is a quarter of
the papers' and their margins about half: some hundred people, 128 dimensions and 100 steps do not need, and
could not reach, what suits a hundred thousand people and twenty epochs.

Measured by us, 100 of the people, one seed, four epochs: demo_hq 90.2 %, demo_lq 86.8 % (docs/losses.md).
"""

from copy import deepcopy

from configs.demo import config as parent

config = deepcopy(parent)
config.loss = "softmax"
config.loss_args = {}
config.num_steps = 100
config.lr = 0.1  # better than the demo's 0.05 for all of them, plain softmax too
config.warmup_epoch = 0.08  # 10 steps
config.verbose = 0  # one verification, at the end
config.save_all_states = False  # too short a run to be resumed
