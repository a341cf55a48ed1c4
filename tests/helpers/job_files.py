"""Config files to test with, as insightface and ARoFace write them, and how to put one on the disk."""

from pathlib import Path

from utils.config import FrozenConfig, get_config

MS1MV3_R50 = """
from easydict import EasyDict as edict
config = edict()
config.margin_list = (1.0, 0.5, 0.0)
config.network = "r50"
config.resume = False
config.output = None
config.embedding_size = 512
config.sample_rate = 1.0
config.fp16 = True
config.momentum = 0.9
config.weight_decay = 5e-4
config.batch_size = 128
config.lr = 0.1
config.verbose = 2000
config.dali = False
config.rec = "/train_tmp/ms1m-retinaface-t1"
config.num_classes = 93431
config.num_image = 5179510
config.num_epoch = 20
config.warmup_epoch = 0
config.val_targets = ['lfw', 'cfp_fp', "agedb_30"]
"""

WF42M_PFC02 = """
from easydict import EasyDict as edict
config = edict()
config.margin_list = (1.0, 0.0, 0.4)
config.network = "vit_b_dp005_mask_005"
config.resume = False
config.output = None
config.embedding_size = 512
config.sample_rate = 0.2
config.interclass_filtering_threshold = 0.4
config.fp16 = True
config.weight_decay = 0.1
config.batch_size = 384
config.gradient_acc = 2
config.optimizer = "adamw"
config.lr = 0.001
config.verbose = 10000
config.dali = False
config.using_wandb = False
config.wandb_key = "XXXXXXXX"
config.wandb_log_all = True
config.save_artifacts = False
config.rec = "/train_tmp/WebFace42M"
config.num_classes = 2059906
config.num_image = 42474557
config.num_epoch = 40
config.warmup_epoch = config.num_epoch // 10
config.val_targets = []
"""


AROFACE_WF4M = """
from easydict import EasyDict as edict
config = edict()
config.margin_list = (1.0, 0.0, 0.4)
config.network = "r100"
config.sample_rate = 1.0
config.fp16 = True
config.batch_size = 128
config.ngpus = 4
config.lr = (0.1*config.batch_size*config.ngpus)/(1024)
config.verbose = 2000
config.dali = False
config.rec = "/train_tmp/WebFace4M"
config.num_classes = 205990
config.num_image = 4235242
config.val_targets = []
config.eta_scale = 0.1
config.eta_t = 0.2
config.eta_theta = 0.3
config.ratio = 0.75
"""


def write_job(folder: Path, text: str, name: str = "job.py") -> Path:
    """Writes a config file and returns its path."""
    path = folder / name
    path.write_text(text)
    return path


def load(*overrides: str) -> FrozenConfig:
    """The synthetic preset, which needs no data, with overrides."""
    return get_config("synthetic", overrides)
