"""The global batch: shared out exactly, on any number of ranks the same training, kept when a run goes on."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dataset import get_dataloader, get_dataset, to_input
from helpers.job_files import load
from helpers.ranks import run_ranks
from helpers.records import settings
from loading.global_batch import choose_global_batch, part_of_rank
from losses import build_loss, build_regularizer
from partial_fc import PartialFC
from ranks.data_parallel import data_parallel
from training import checkpoint
from training.optimizer import build_optimizer, make_scaler
from training.training_state import TrainingState, saved_batch
from utils.distributed import average_buffers, rank, world_size

NUM_CLASSES = 7


def test_parts_are_consecutive_and_the_first_ranks_take_one_more():
    for total in range(20):
        for ranks in range(1, 7):
            parts = [part_of_rank(total, r, ranks) for r in range(ranks)]
            assert [i for part in parts for i in part] == list(range(total))
            sizes = [len(part) for part in parts]
            assert sizes == sorted(sizes, reverse=True)
            assert max(sizes) - min(sizes) <= 1


# ---------------------------------------------------------------- which global batch

SAVED = dict(global_batch=32, batch_size=8, gradient_acc=1)  # by four ranks


@pytest.mark.parametrize(
    ("overrides", "ranks", "saved", "expected"),
    [
        ("batch_size=8", 4, {}, 32),
        ("batch_size=8 gradient_acc=3", 2, {}, 48),
        ("global_batch=50", 3, {}, 50),
        ("batch_size=8 global_batch=50 gradient_acc=2", 3, {}, 50),
        ("batch_size=8", 4, SAVED, 32),
        ("batch_size=8", 3, SAVED, 32),
        ("batch_size=8", 5, SAVED, 32),
        ("batch_size=16", 2, SAVED, 32),  # the ways that were there before
        ("batch_size=8 gradient_acc=4", 1, SAVED, 32),
        ("batch_size=16 global_batch=32 gradient_acc=2", 3, SAVED, 32),
        ("batch_size=8", 4, dict(global_batch=32), 32),  # of an earlier version
        ("global_batch=32", 3, dict(global_batch=32), 32),
    ],
)
def test_the_global_batch_is_what_the_settings_say_or_what_it_was(overrides, ranks, saved, expected):
    assert choose_global_batch(load(*overrides.split()), ranks, saved) == expected


@pytest.mark.parametrize(
    ("overrides", "ranks", "saved", "message"),
    [
        (
            "batch_size=4",
            3,
            SAVED,
            "global_batch 32, this one has 12 (4 × 3 rank(s) × 1): global_batch=32 goes",
        ),
        (
            "batch_size=8 gradient_acc=2",
            3,
            SAVED,
            "this one has 48 (8 × 3 rank(s) × 2): global_batch=32 goes on",
        ),
        ("batch_size=8 global_batch=33", 4, SAVED, "this one has 33: global_batch=32 goes on with it"),
        (
            "batch_size=8",
            3,
            dict(global_batch=32),
            "this one has 24 (8 × 3 rank(s) × 1): global_batch=32 goes",
        ),
        ("global_batch=2", 3, {}, "global_batch=2 and gradient_acc=1 leave some of 3 ranks without an image"),
        ("global_batch=8 gradient_acc=4", 3, {}, "gradient_acc=4 leave some of 3 ranks without an image"),
    ],
)
def test_another_global_batch_than_the_checkpoints_is_an_error_with_the_way_out(
    overrides, ranks, saved, message
):
    with pytest.raises(ValueError, match=re.escape(message)):
        choose_global_batch(load(*overrides.split()), ranks, saved)


def test_a_global_batch_that_is_kept_is_said_in_one_line(caplog):
    caplog.set_level("INFO", "lqface")
    choose_global_batch(load("batch_size=8"), 4, SAVED)
    assert not caplog.messages
    choose_global_batch(load("batch_size=8"), 3, SAVED)
    (line,) = caplog.messages
    assert line.startswith(
        "3 rank(s) of batch_size=8 make a global batch of 24; it stays the checkpoint's 32, 10 to 11"
    )


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Run:
    """A run in float64 on random images, with a linear network."""

    loss: str = "adaface"
    regularizers: tuple[str, ...] = ("ndr", "disc", "center")
    global_batch: int = 10
    gradient_acc: int = 1

    def train(self, folder: Path, first_step: int, last_step: int) -> None:
        """Steps from a checkpoint (0: none) to the next one, on this rank."""
        cfg = settings(
            rec="synthetic", num_classes=NUM_CLASSES, num_image=45, gradient_acc=self.gradient_acc,
            optimizer="sgd", momentum=0.9, weight_decay=5e-4, no_decay_norm_bias=False,
            sampled_update="sparse",
        )  # fmt: skip
        sizes = dict(rank=rank(), world_size=world_size(), global_batch=self.global_batch)
        loader = get_dataloader(cfg, get_dataset(cfg), **sizes)
        torch.manual_seed(0)
        backbone, cpu = Linear().double(), torch.device("cpu")
        regularizers = [build_regularizer(name) for name in self.regularizers]
        head = PartialFC(build_loss(self.loss), 8, NUM_CLASSES, regularizers=regularizers).double()
        ddp = data_parallel(backbone, cpu)
        optimizer = build_optimizer(cfg, backbone, head, lr=0.01)
        state = TrainingState(backbone, head, optimizer, make_scaler("fp32", cpu))
        if first_step:
            state.load(folder, first_step)
        for step in range(first_step, last_step):
            head.set_progress(step, step / 4, 2)
            epoch, step_of_epoch = divmod(step, len(loader) // self.gradient_acc)
            loader.set_position(epoch, step_of_epoch * self.gradient_acc)
            batches = iter(loader)
            for _ in range(self.gradient_acc):
                images, labels, _ = next(batches)
                embeddings = ddp(to_input(images, cpu).double())
                (head(embeddings, labels) / self.gradient_acc).backward()
            optimizer.step()
            optimizer.zero_grad()
        average_buffers(backbone, loader.weight)
        state.save(folder, last_step)


class Linear(nn.Module):
    """A linear layer; beside it a running mean of its input, as BatchNorm collects one."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 14 * 14, 8)
        self.register_buffer("running_mean", torch.zeros(3 * 14 * 14))

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool2d(images, 8).flatten(1)
        if len(pooled):
            self.running_mean.lerp_(pooled.mean(0), 0.1)
        return self.linear(pooled)


# name -> (run, its end where it differs)
RUNS = {
    "losses with a state": (Run(), {}),
    "accumulation from then on": (Run("cosface", ()), dict(gradient_acc=2)),
    "accumulation": (Run("arcface", (), gradient_acc=2), {}),
}
FEWER_IMAGES_THAN_RANKS = Run(global_batch=2, regularizers=("center",))


def train_all(folder: Path, first_step: int, last_step: int) -> None:
    for name, (run, later) in RUNS.items():
        run = replace(run, **later) if first_step else run
        run.train(folder / name, first_step, last_step)


def train_whole(folder: Path) -> None:
    train_all(folder, 0, 6)
    FEWER_IMAGES_THAN_RANKS.train(folder / "few", 0, 3)


def train_on_three(folder: Path) -> None:
    """The end of the runs that four ranks began, and one of its own."""
    train_all(folder, 3, 6)
    FEWER_IMAGES_THAN_RANKS.train(folder / "few", 0, 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Checkpoints of runs of one rank, and of the same runs on four ranks and then on three."""
    whole, moved = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("moved")
    run_ranks(1, train_whole, whole)
    run_ranks(4, train_all, moved, 0, 3)
    run_ranks(3, train_on_three, moved)
    return whole, moved


def assert_equal(one, other, name: str) -> None:
    if isinstance(one, Tensor):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9, msg=lambda text: f"{name}: {text}")
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            assert_equal(one[key], other[key], f"{name}, {key}")
    else:
        assert one == other, name


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_goes_on_with_three_of_four_ranks_ends_as_one_rank_does(folders, name):
    """Network, statistics, centres, memories and momentum: 10 images are 3 + 3 + 2 + 2, then 4 + 3 + 3."""
    whole, moved = (checkpoint.load(folder / name, 0, NUM_CLASSES, 6) for folder in folders)
    assert whole[0]["backbone"]["running_mean"].std() > 0.001
    if RUNS[name][1]:  # what is counted or averaged once a micro-batch
        for shared, _ in (whole, moved):
            del shared["backbone"]["running_mean"], shared["head"]["_extra_state"]
    assert_equal(whole[0], moved[0], name)
    assert_equal(whole[1], moved[1], name)


@pytest.mark.slow
def test_ranks_without_an_image_take_part(folders):
    whole, ranks = (checkpoint.load(folder / "few", 0, NUM_CLASSES, 3) for folder in folders)
    assert_equal(whole[0]["backbone"]["linear.weight"], ranks[0]["backbone"]["linear.weight"], "network")
    assert_equal(whole[1], ranks[1], "centres")


def test_a_new_run_has_no_batch_saved(tmp_path):
    assert saved_batch(tmp_path, 0) == {}
