"""A checkpoint is whole or absent, fits any number of ranks, and holds all that the next step depends on."""

import json
import re
import shutil
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from helpers.checkpoints import (
    NUM_CLASSES,
    SHARED,
    WIDTH,
    assert_every_split_loads,
    damage,
    per_class,
    ranges,
    save,
)
from helpers.disk import file_size_limit
from training import checkpoint
from training.optimizer import SGD, AdamW, restore_optimizer_state, split_optimizer_state
from utils.tensor_files import file_checksum


def save_as_three_ranks(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3, timeout=timedelta(minutes=2)
    )
    for num_classes in (NUM_CLASSES, 2):  # the second has fewer classes than ranks
        start, end = ranges(3, num_classes)[rank]
        shared = SHARED if rank == 0 else {"written by": "the wrong rank"}
        for step in (1, 2, 3):
            checkpoint.save(folder / str(num_classes), step, shared, per_class(start, end), start)
    start, end = ranges(3)[rank]
    for name, change in FAULTS.items():
        mine = per_class(start, end)
        checkpoint.save(folder / name, 1, SHARED, mine, start)
        # The last rank sees a problem of which the others know nothing.
        with pytest.MonkeyPatch.context() as patch:
            if rank == 2:
                change(mine, patch)
            with pytest.raises(ValueError, match=r"^rank 2: ") as error:
                checkpoint.save(folder / name, 2, SHARED, mine, start)
        (folder / f"{name}.{rank}").write_text(str(error.value))
    if rank == 2:
        damage(folder / name / "step_00000001" / f"classes_{start:09d}-{end:09d}.pt", "overwritten")
    dist.barrier()
    with pytest.raises(ValueError, match=r"^rank 2: .*000000007-000000010.pt is damaged"):
        checkpoint.load(folder / name, start, end - start)
    dist.destroy_process_group()


def put_nan(rows, patch):
    rows["weight"][1, 2] = torch.nan


def fill_the_disk(rows, patch):
    def full(path, content):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    patch.setattr(checkpoint, "write_tensors", full)


FAULTS = {"nan": put_nan, "full_disk": fill_the_disk}


@pytest.fixture(scope="module")
def saved_by_three_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three_ranks")
    mp.spawn(save_as_three_ranks, (folder,), 3)
    return folder


def test_what_three_ranks_save_any_number_of_ranks_load(saved_by_three_ranks):
    for num_classes in (NUM_CLASSES, 2):
        folder = saved_by_three_ranks / str(num_classes)
        assert_every_split_loads(folder, num_classes)
        assert sorted(p.name for p in folder.iterdir()) == ["step_00000002", "step_00000003"]
    shards = sorted(
        p.name for p in (saved_by_three_ranks / str(NUM_CLASSES) / "step_00000003").glob("classes_*")
    )
    assert shards == [f"classes_{start:09d}-{end:09d}.pt" for start, end in ranges(3)]


def test_what_fails_on_one_rank_fails_on_all_and_leaves_what_was_there(saved_by_three_ranks):
    told = {"nan": "rank 2: step_00000002 is not saved, .*: weight holds numbers that are not finite"}
    told["full_disk"] = r"rank 2: No space left on device: '.*/classes_000000007-000000010.pt'"
    for name, message in told.items():
        for rank in range(3):
            assert re.fullmatch(message, (saved_by_three_ranks / f"{name}.{rank}").read_text())
        assert [path.name for path in (saved_by_three_ranks / name).iterdir()] == ["step_00000001"]
    assert_every_split_loads(saved_by_three_ranks / "nan")


def test_what_one_rank_saves_any_number_of_ranks_load(tmp_path):
    save(tmp_path)
    assert_every_split_loads(tmp_path)


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        save(tmp_path, step, keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000010", "step_00000015", "step_00000020"]
    assert checkpoint.latest_step(tmp_path) == 20


def test_checkpoints_of_a_future_that_was_given_up_are_removed(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    save(tmp_path, 15, keep=3)  # as after resuming from step 10
    assert checkpoint.latest_step(tmp_path) == 15
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000010", "step_00000015"]


def test_a_step_may_be_saved_again(tmp_path):
    save(tmp_path, 4)
    checkpoint.save(tmp_path, 4, {"again": True}, per_class(0, NUM_CLASSES), 0)
    assert checkpoint.load(tmp_path, 0, NUM_CLASSES)[0] == {"again": True}
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000004"]


@pytest.mark.parametrize("stopped_in", ["_write", "_flush_to_disk", "gather_objects", "write_manifest"])
def test_an_interrupted_save_leaves_the_last_checkpoint_and_is_cleaned_up(tmp_path, monkeypatch, stopped_in):
    def interrupted(*_):
        raise KeyboardInterrupt

    save(tmp_path, 1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, stopped_in, interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2, keep=1)
    found = checkpoint.latest_step(tmp_path)
    assert found == (2 if stopped_in == "_flush_to_disk" else 1)  # that comes after the rename
    assert checkpoint.load(tmp_path, 0, NUM_CLASSES)[0]["name"] == "r50"
    save(tmp_path, 3, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000003"]


def test_half_written_and_foreign_folders_are_no_checkpoints(tmp_path):
    (tmp_path / "step_00000009.tmp").mkdir()
    (tmp_path / "step_one").mkdir()
    assert checkpoint.latest_step(tmp_path) is None
    assert checkpoint.latest_step(tmp_path / "absent") is None


def test_a_rank_reads_only_the_files_of_its_own_classes(saved_by_three_ranks, tmp_path):
    folder = shutil.copytree(saved_by_three_ranks / str(NUM_CLASSES), tmp_path / "copy")
    second = folder / "step_00000003" / "classes_000000004-000000007.pt"
    second.write_bytes(b"x" * second.stat().st_size)
    assert checkpoint.load(folder, 0, 4)[1]["age"].tolist() == [0, 1, 2, 3]
    assert checkpoint.load(folder, 8, 2)[1]["age"].tolist() == [8, 9]
    with pytest.raises(ValueError, match=f"{second.name} is damaged"):
        checkpoint.load(folder, 3, 2)


def test_a_view_is_saved_without_the_storage_behind_it(tmp_path):
    path = checkpoint.save(tmp_path, 1, {}, {"weight": torch.zeros(1_000_000)[:10]}, 0)
    assert sum(p.stat().st_size for p in path.iterdir()) < 10_000


def test_what_could_not_be_read_back_is_refused_when_saving(tmp_path):
    with pytest.raises(TypeError, match=r"plain values, not .*float64"):
        checkpoint.save(tmp_path, 1, {"loss": np.float64(1)}, per_class(0, 2), 0)
    assert checkpoint.latest_step(tmp_path) is None


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["shared.pt", "classes_000000000-000000010.pt", "manifest.json"])
@pytest.mark.parametrize("how", ["missing", "truncated", "overwritten"])
def test_a_missing_or_damaged_file_is_named_in_one_line(tmp_path, name, how):
    path = save(tmp_path) / name
    damage(path, how)
    with pytest.raises(FileNotFoundError if how == "missing" else ValueError, match=name) as error:
        checkpoint.load(tmp_path, 0, NUM_CLASSES)
    assert one_line(error)


def test_another_number_of_classes_is_an_error(tmp_path):
    save(tmp_path)
    with pytest.raises(ValueError, match="holds 10 classes, but this run has 11"):
        checkpoint.load(tmp_path, 6, 5)
    with pytest.raises(ValueError, match="holds 10 classes, but this run has 8"):
        checkpoint.load(tmp_path, 0, 4, num_classes=8)


def test_an_absent_checkpoint_is_an_error_that_says_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        checkpoint.load(tmp_path, 0, 1)
    save(tmp_path, 10)
    with pytest.raises(FileNotFoundError, match=r"of step 20 .* steps \[10\]"):
        checkpoint.load(tmp_path, 0, 1, step=20)


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("unpickled",)

    path = save(tmp_path)
    torch.save({"x": Evil()}, path / "shared.pt")
    files = json.loads((path / "manifest.json").read_text())
    files["files"]["shared.pt"] = (path / "shared.pt").stat().st_size
    files["crc32"]["shared.pt"] = f"{file_checksum(path / 'shared.pt'):08x}"
    (path / "manifest.json").write_text(json.dumps(files))
    with pytest.raises(ValueError, match=r"shared\.pt is damaged") as error:
        checkpoint.load(tmp_path, 0, NUM_CLASSES)
    assert "checksum" not in str(error.value)  # torch has looked inside


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_saved_and_earlier_checkpoints_stay(tmp_path, value):
    save(tmp_path, 1)
    broken = {"optimizer": [{"momentum_buffer": torch.tensor([1.0, value])}]}
    with pytest.raises(
        ValueError, match=r"step_00000002 is not saved, .*: optimizer.0.momentum_buffer holds"
    ):
        checkpoint.save(tmp_path, 2, broken, per_class(0, NUM_CLASSES), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_full_disk_is_named_and_earlier_checkpoints_stay_whole(tmp_path):
    save(tmp_path, 1)
    with file_size_limit(20_000), pytest.raises(OSError, match="File too large") as error:
        checkpoint.save(tmp_path, 2, {"weight": torch.zeros(100_000)}, per_class(0, NUM_CLASSES), 0)
    assert error.value.filename == str(tmp_path / "step_00000002.tmp" / "shared.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert_every_split_loads(tmp_path)


# -- the optimiser's state -----------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.05),
    "adamw": lambda parameters: AdamW(parameters, lr=0.1, weight_decay=0.05),
}


def gradient(step, num_rows=NUM_CLASSES):
    return torch.randn(num_rows, WIDTH, generator=torch.Generator().manual_seed(step))


def run(kind, backbone, centres, start, steps, optimizer=None):
    """Some steps of a rank that holds rows start … of the classes; returns its optimiser."""
    optimizer = optimizer or OPTIMIZERS[kind]([backbone, centres])
    for step in steps:
        backbone.grad = gradient(step, 1)
        centres.grad = gradient(step)[start : start + len(centres)]
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_resuming_with_other_splits_continues_exactly(tmp_path, kind):
    backbone, centres = nn.Parameter(gradient(98, 1)), nn.Parameter(gradient(99))
    optimizer = run(kind, backbone, centres, 0, range(3))
    state, rows = split_optimizer_state(optimizer, {"weight": centres})
    assert (
        set(rows) == {"weight.momentum_buffer"} if kind == "sgd" else {"weight.exp_avg", "weight.exp_avg_sq"}
    )
    checkpoint.save(tmp_path, 3, {"backbone": backbone, "optimizer": state}, {"weight": centres, **rows}, 0)
    run(kind, backbone, centres, 0, range(3, 6), optimizer)  # without interruption

    for num_ranks in (1, 2, 3):
        parts = []
        for start, end in ranges(num_ranks):
            shared, sharded = checkpoint.load(tmp_path, start, end - start)
            local_backbone, local = nn.Parameter(shared["backbone"]), nn.Parameter(sharded["weight"])
            resumed = OPTIMIZERS[kind]([local_backbone, local])
            restore_optimizer_state(resumed, {"weight": local}, shared["optimizer"], sharded)
            run(kind, local_backbone, local, start, range(3, 6), resumed)
            assert torch.equal(local_backbone, backbone)
            parts.append(local.detach())
        assert torch.equal(torch.cat(parts), centres)


def test_the_state_before_the_first_step_round_trips():
    for make in OPTIMIZERS.values():
        weight = nn.Parameter(gradient(0))
        shared, sharded = split_optimizer_state(make([weight]), {"weight": weight})
        assert sharded == {}
        resumed = make([weight])
        restore_optimizer_state(resumed, {"weight": weight}, shared, {"weight": weight})
        weight.grad = gradient(1)
        resumed.step()


def test_settings_that_change_on_resuming_take_effect():
    weight = nn.Parameter(gradient(0))
    shared, sharded = split_optimizer_state(SGD([weight], lr=0.1, weight_decay=0.1), {"weight": weight})
    resumed = SGD([weight], lr=0.3, weight_decay=0.2)
    restore_optimizer_state(resumed, {"weight": weight}, shared, sharded)
    assert (resumed.param_groups[0]["lr"], resumed.param_groups[0]["weight_decay"]) == (0.3, 0.2)


def test_another_optimiser_or_grouping_is_an_error():
    first, second = nn.Parameter(gradient(0)), nn.Parameter(gradient(1))
    shared, sharded = split_optimizer_state(OPTIMIZERS["sgd"]([first, second]), {"weight": second})
    with pytest.raises(ValueError, match="optimizer: SGD, this run's: AdamW"):
        restore_optimizer_state(OPTIMIZERS["adamw"]([first, second]), {"weight": second}, shared, sharded)
    regrouped = OPTIMIZERS["sgd"]([{"params": [first]}, {"params": [second]}])
    with pytest.raises(ValueError, match="parameter groups"):
        restore_optimizer_state(regrouped, {"weight": second}, shared, sharded)
