"""No setting is accepted and ignored: with each of them train_v2.py ends with other weights, or the same."""

import sys
from pathlib import Path

import pytest
import torch

import train_v2
from backbones import compiled, get_model, save_backbone
from helpers.setting_changes import CHANGES_SPEED, CHANGES_TRAINING
from helpers.train_runs import write_faces
from utils.distributed import stop_process_group
from utils.logging import setup_logging

NETWORK = "network=vit_t network_args={depth:1,width:16,mask_ratio:0.0,drop_path_rate:0.0} embedding_size=8"
RUN = "num_steps=3 frequent=3 batch_size=4 lr=0.05 num_workers=0 precision=fp32 save_all_states=false"

REFERENCE = "tensorboard=false"


def write_source(folder: Path) -> Path:
    """Weights of a network of those sizes."""
    args = dict(depth=1, width=16, mask_ratio=0.0, drop_path_rate=0.0)
    torch.manual_seed(8)
    network = get_model("vit_t", num_features=8, **args)
    network(torch.rand(8, 3, 112, 112))
    save_backbone(folder / "source.pt", network, network="vit_t", num_features=8, network_args=args)
    return folder / "source.pt"


def train(arguments: list[str], folder: Path) -> dict[str, torch.Tensor]:
    """The network that a run in this process ends with, all but its curves and its record of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_v2.py", "configs/synthetic", *arguments, f"output={folder}"])
        patch.setattr(train_v2.RunReport, "draw", lambda *_, **__: None)
        patch.setattr(train_v2, "write_run_info", lambda *_, **__: None)
        patch.setattr(compiled, "BACKEND", "aot_eager")  # tests/test_compiled.py asks the compiler itself
        try:
            train_v2.main()
        finally:
            stop_process_group()
            setup_logging(folder, rank=1)  # closes the log file
    assert "could not be compiled" not in (folder / "train.log").read_text()
    return torch.load(folder / "model.pt")["state_dict"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, dict]:
    """The network after each run."""
    folder = tmp_path_factory.mktemp("settings")
    base = [*f"{NETWORK} {RUN} {REFERENCE}".split(), f"rec={write_faces(folder / 'faces')}", "num_image=None"]
    base += ["num_classes=None", "channels_last=false"]
    changes, source = [REFERENCE, *CHANGES_TRAINING, *CHANGES_SPEED], str(write_source(folder))
    return {
        change: train([*base, *change.replace("SOURCE", source).split()], folder / str(i))
        for i, change in enumerate(changes)
    }


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
