"""docs/migrating.md: it has every key of the other projects' configs, and what it names is there."""

import re
import shlex
from pathlib import Path

import pytest

from configs import base
from losses import build_loss, build_regularizer
from utils.config import get_config

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "migrating.md").read_text()
KEYS = TEXT.split("| key | here |")[1].split("\n\n")[0]
# The keys of arcface_torch's 42 files and its base.py, and those that ARoFace's four add.
ARCFACE_TORCH = """
    margin_list network resume save_all_states output embedding_size sample_rate
    interclass_filtering_threshold fp16 batch_size optimizer lr momentum weight_decay verbose frequent dali
    dali_aug gradient_acc seed num_workers wandb_key suffix_run_name using_wandb wandb_entity wandb_project
    wandb_log_all save_artifacts wandb_resume notes rec num_classes num_image num_epoch warmup_epoch
    val_targets
"""
AROFACE = "ngpus eta_scale eta_t eta_theta ratio"


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_every_key_of_theirs_has_a_row_and_every_name_of_ours_is_a_setting():
    rows = [line.strip("|").split("|") for line in KEYS.splitlines() if line.startswith("| `")]
    theirs = [name for row in rows for name in names(row[0])]
    assert sorted(theirs) == sorted(ARCFACE_TORCH.split() + AROFACE.split())
    ours = {name for row in rows for name in names(row[1])}
    assert ours <= set(base.Settings.__annotations__)


OURS = "\n".join(
    line.split("|")[2] for line in TEXT.split("## Config files")[0].splitlines() if line[:1] == "|"
)
COMMANDS = re.findall(r"`torchrun --nproc_per_node=\d train_v2\.py (configs/[^`]*)`", OURS)


@pytest.mark.parametrize("command", COMMANDS)
def test_our_commands_name_configs_and_settings_that_exist(command):
    config, *overrides = shlex.split(command)
    cfg = get_config(config, overrides)
    build_loss(cfg.loss, **cfg.loss_args)


def test_what_reproduces_the_others_can_be_built():
    assert len(COMMANDS) > 3
    build_regularizer("ndr", ramp="whole_epoch", when_full="drop_newest")
    build_loss("adaface", gradient="straight_through")
    for script in re.findall(r"(?:eval|tools)/\w+\.py", OURS):
        assert (ROOT / script).is_file(), script
