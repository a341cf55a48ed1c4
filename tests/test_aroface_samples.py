"""ARoFace: the picture of clean and warped faces at a run's start, and that drawing it changes nothing."""

import json
import logging
import sys

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_v2
from helpers.aroface_cases import SIDE, batch, make_backbone, make_head
from helpers.train_runs import SMALL, write_faces
from losses.aroface import SAMPLES, AlignmentPerturbation
from reports.tensorboard_log import TensorBoardLog
from utils.distributed import stop_process_group
from utils.logging import RunLog

GAP = 2  # pixels around each image of the grid


def same_images(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """`(n, m)`: is image i of the one equal to image j of the other?"""
    return (one[:, None] == other[None]).all((2, 3, 4))


# ---- the samples


@pytest.mark.parametrize("mixing", ["partition", "independent"])
@pytest.mark.parametrize(("size", "kept"), [(12, 6), (40, SAMPLES)])
def test_samples_are_images_of_the_batch_and_what_became_of_the_same_ones(mixing, size, kept):
    images, labels = batch(size)
    perturb = AlignmentPerturbation(ratio=0.5, mixing=mixing)
    torch.manual_seed(5)
    mixed, mixed_labels = perturb(make_backbone(), make_head(), images, labels)
    clean, warped = perturb.samples
    assert len(clean) == len(warped) == kept
    before, after = same_images(clean, images), same_images(warped, mixed)
    assert (before.sum(1) == 1).all()
    assert (after.sum(1) == 1).all()
    assert torch.equal(labels[before.int().argmax(1)], mixed_labels[after.int().argmax(1)])
    assert not same_images(warped, images).any()  # all of them were really warped
    distance = (warped[:, None] - images[None]).abs().mean((2, 3, 4))
    assert torch.equal(distance.argmin(1), before.int().argmax(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_samples_are_float32_as_the_batch_is(dtype):
    perturb = AlignmentPerturbation(ratio=0.5)
    with torch.autocast("cpu", dtype):
        perturb(make_backbone(), make_head(), *batch(4))
    assert [sample.dtype for sample in perturb.samples] == [torch.float32] * 2


def test_without_a_warped_image_there_is_no_sample():
    perturb = AlignmentPerturbation(ratio=1.0)
    perturb(make_backbone(), make_head(), *batch(4))
    assert perturb.samples == ()


# ---- the picture


def log_pairs(folder, pairs, *, rank=0, tensorboard=False):
    mirrors = [TensorBoardLog(folder / "tensorboard", 0)] if tensorboard else []
    log = RunLog(folder, rank=rank, total_steps=9, global_batch=4, mirrors=mirrors)
    log.log_pairs(1, "samples", pairs)
    log.close()


def test_the_picture_shows_each_image_above_what_became_of_it_pixel_for_pixel(tmp_path):
    levels = torch.arange(2 * 3 * 3 * SIDE * SIDE).view(2, 3, 3, SIDE, SIDE) % 256
    log_pairs(tmp_path, tuple(levels / 127.5 - 1), tensorboard=True)
    picture = cv2.imread(str(tmp_path / "samples.png"))[..., ::-1]
    assert picture.shape == (2 * SIDE + 3 * GAP, 3 * SIDE + 4 * GAP, 3)
    for row, column in np.ndindex(2, 3):
        top, left = GAP + row * (SIDE + GAP), GAP + column * (SIDE + GAP)
        tile = picture[top : top + SIDE, left : left + SIDE]
        np.testing.assert_array_equal(tile, levels[row, column].permute(1, 2, 0))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (shown,) = events.Images("samples")
    assert shown.step == 1
    decoded = cv2.imdecode(np.frombuffer(shown.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    # Within one level: TensorBoard rounds down.
    np.testing.assert_allclose(decoded[..., ::-1].astype(int), picture, rtol=0, atol=1)


def test_only_rank_0_draws_and_only_if_there_is_something(tmp_path):
    images, _ = batch(2)
    log_pairs(tmp_path / "other_rank", (images, images), rank=1)
    log_pairs(tmp_path / "nothing", ())
    assert list(tmp_path.rglob("*.png")) == []


# ---- a run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(folder, *overrides) trains in this process; the losses of its steps."""
    faces = write_faces(tmp_path / "faces")

    def train(folder: str, *overrides: str) -> list[float]:
        data = [f"rec={faces}", "num_classes=None", "num_image=None", f"output={tmp_path / folder}"]
        arguments = ["configs/synthetic", *SMALL, *data, "num_steps=3", "num_workers=0", *overrides]
        monkeypatch.setattr(sys, "argv", ["train_v2.py", *arguments])
        try:
            train_v2.main()
        finally:
            stop_process_group()
        lines = map(json.loads, (tmp_path / folder / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if line["kind"] == "train"]

    yield train
    for handler in (logger := logging.getLogger("lqface")).handlers[:]:
        logger.removeHandler(handler)
        handler.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_draws_the_picture_has_the_losses_of_one_that_does_not(
    run, tmp_path, monkeypatch, precision
):
    settings = ["aroface={ratio:0.5}", "gradient_acc=2", "dropout=0.2", f"precision={precision}"]
    drawn = run("drawn", *settings)
    picture = cv2.imread(str(tmp_path / "drawn/aroface_samples.png"))
    assert picture.shape == (2 * 112 + 3 * GAP, 2 * 112 + 3 * GAP, 3)
    assert picture.std() > 10
    monkeypatch.setattr(RunLog, "log_pairs", lambda *_: None)
    assert drawn == run("not_drawn", *settings)
    assert not (tmp_path / "not_drawn/aroface_samples.png").exists()
    models = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("drawn", "not_drawn")]
    weights, others = (model["state_dict"] for model in models)
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())


def test_a_run_that_warps_nothing_draws_nothing(run, tmp_path):
    run("clean", "aroface={ratio:1.0}")
    assert not (tmp_path / "clean/aroface_samples.png").exists()


def test_a_resumed_run_leaves_the_picture_as_it_is(run, tmp_path):
    common = ["aroface={ratio:0.5}", "save_all_states=true"]
    run("run", *common)
    picture = tmp_path / "run/aroface_samples.png"
    before = picture.read_bytes(), picture.stat().st_mtime_ns
    run("run", *common, "num_steps=4", "resume=true")
    assert before == (picture.read_bytes(), picture.stat().st_mtime_ns)
