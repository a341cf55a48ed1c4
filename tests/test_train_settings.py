"""No setting is accepted and ignored: with each of them train_v2.py ends with other weights, or the same."""

import sys
from pathlib import Path

import pytest
import torch

import train_v2
from helpers.train_runs import write_faces
from utils.distributed import stop_process_group
from utils.logging import setup_logging

NETWORK = "network=vit_t network_args={depth:1,width:16,mask_ratio:0.0,drop_path_rate:0.0} embedding_size=8"
RUN = "num_steps=3 frequent=3 batch_size=4 lr=0.05 num_workers=0 precision=fp32 save_all_states=false"

CHANGES_TRAINING = [
    "seed=1",
    "num_classes=9",
    "batch_size=8",
    "gradient_acc=2",
    "global_batch=6",
    "flip_prob=1",
    "crop_prob=1",
    "low_res_prob=1",
    "photometric_prob=1",
    "network_args.depth=2",
    "embedding_size=16",
    "dropout=0.5",
    "loss=cosface",
    "loss_args.m=0.2",
    "margin_list=1,0.3,0",
    "margin_list=1,0.5,0",  # arcface too, but with the straight-through gradient
    "loss=combined interclass_filtering_threshold=0.01",
    "regularizers=[disc]",
    "regularizers=[(disc,{weight:0.2}),center]",
    "aroface={}",
    "aroface={ratio:0.5}",
    "sample_rate=0.3",
    "optimizer=adamw",
    "lr=0.06",
    "lr_reference_batch=8",
    "momentum=0.8",
    "weight_decay=0.1",
    "no_decay_norm_bias=true",
    "grad_clip=0.01",
    "poly_power=2",
    "scheduler=cosine",
    "scheduler=multistep milestones=0.1",
    "scheduler=multistep milestones=0.1 lr_decay=0.5",
    "warmup_epoch=0.3",
    "precision=bf16",
    "precision=None fp16=true",
]
CHANGES_SPEED = [
    "engine=dense",
    "chunk_size=2",
    "kernels=true",  # in Triton's interpreter
    "kernels=true filter_gradients=true",  # so few classes are one tile, in which some always count
    "num_workers=2",
    "grad_checkpointing=true",
    "channels_last=true",
    "sync_bn=true",  # on one rank; tests/test_sync_batch_norm.py has more
    "on_bad_record=skip",  # without a bad record
    "frequent=1",
    "verbose=1 val_targets=pairs",
    "checkpoint_every=1 save_all_states=true",
    "check_ranks_every=1",
    "tensorboard=true",
    "max_skipped_steps=1",
    "resume=auto timeout_minutes=5 save_all_states=true",
]
REFERENCE = "tensorboard=false"


def train(arguments: list[str], folder: Path) -> dict[str, torch.Tensor]:
    """The network that a run in this process ends with, all but its curves and its record of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_v2.py", "configs/synthetic", *arguments, f"output={folder}"])
        patch.setattr(train_v2, "plot_training_curves", lambda *_: None)
        patch.setattr(train_v2, "write_run_info", lambda *_, **__: None)
        try:
            train_v2.main()
        finally:
            stop_process_group()
            setup_logging(folder, rank=1)  # closes the log file
    return torch.load(folder / "model.pt")["state_dict"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, dict]:
    """The network after each run."""
    folder = tmp_path_factory.mktemp("settings")
    base = [*f"{NETWORK} {RUN} {REFERENCE}".split(), f"rec={write_faces(folder / 'faces')}", "num_image=None"]
    base += ["num_classes=None", "channels_last=false"]
    changes = [REFERENCE, *CHANGES_TRAINING, *CHANGES_SPEED]
    return {change: train([*base, *change.split()], folder / str(i)) for i, change in enumerate(changes)}


def equal(one: dict, other: dict, tolerance: float) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.allclose(one[name], other[name], tolerance, tolerance)
        for name in one
    )


@pytest.mark.parametrize("change", CHANGES_TRAINING)
def test_a_setting_of_the_training_changes_the_network(weights, change):
    assert not any(equal(weights[change], weights[other], 0) for other in weights if other != change)


@pytest.mark.parametrize("change", CHANGES_SPEED)
def test_a_setting_of_speed_or_output_does_not(weights, change):
    assert equal(weights[change], weights[REFERENCE], 1e-5)
