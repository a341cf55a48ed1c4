"""on_bad_record="skip": another image takes the place of a bad one, always the same; the log tells which."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch

from dataset import FolderDataset, MergedDataset, RecordDataset, SyntheticDataset, get_dataloader, get_dataset
from helpers.ranks import run_ranks
from helpers.records import picture, png, settings, write_rec
from helpers.train_runs import SMALL, train
from loading import loader
from loading.augment import Augmentation
from loading.bad_records import BadRecords
from training import checkpoint
from utils.distributed import rank
from utils.errors import GroupError
from utils.recordio import RecordError

LABELS = [label % 5 for label in range(24)]
BAD = {4: b"no image", 7: b"", 13: png(picture(13))[:99]}
ALL = dict(crop_prob=0.5, low_res_prob=0.5, photometric_prob=0.5, on_bad_record="skip")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_rec(tmp_path_factory.mktemp("whole"), LABELS)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return write_rec(tmp_path_factory.mktemp("damaged"), LABELS, BAD)


def batches(folder, rank=0, world_size=1, epoch=0, first_batch=0, **changes):
    cfg = settings(rec=str(folder), batch_size=6 // world_size, **ALL | changes)
    faces = get_dataloader(cfg, get_dataset(cfg), rank=rank, world_size=world_size)
    faces.set_position(epoch, first_batch)
    return [tuple(tensor.clone() for tensor in batch) for batch in faces]


def assert_same(first, second):
    assert len(first) == len(second)
    for batch, other in zip(first, second):
        assert all(torch.equal(*pair) for pair in zip(batch, other, strict=True))


def test_only_bad_images_are_replaced_and_the_indices_tell_by_which(whole, damaged):
    dataset = RecordDataset(damaged)
    for epoch in range(3):
        own = {}
        for images, _, indices in batches(whole, epoch=epoch):
            own |= dict(zip(indices.tolist(), images))
        for expected, got in zip(batches(whole, epoch=epoch), batches(damaged, epoch=epoch)):
            wanted, used = expected[2].tolist(), got[2].tolist()
            replaced = [row for row, index in enumerate(wanted) if index in BAD]
            kept = [row for row in range(6) if row not in replaced]
            assert not set(used) & set(BAD)
            assert [used[row] for row in kept] == [wanted[row] for row in kept]
            assert torch.equal(got[0][kept], expected[0][kept])
            assert all(torch.equal(got[0][row], own[used[row]]) for row in replaced)  # with its own changes
            assert got[1].tolist() == [LABELS[index] for index in used]
            assert all(dataset.name_of(index) == f"{damaged}/train.rec: record {index}" for index in used)


def test_replacements_depend_on_seed_epoch_and_index_alone(damaged):
    alone = batches(damaged, epoch=3)
    assert_same(alone, batches(damaged, epoch=3, num_workers=2))
    assert_same(alone[2:], batches(damaged, epoch=3, first_batch=2))
    parts = [batches(damaged, r, 2, epoch=3) for r in range(2)]
    assert_same(alone, [tuple(map(torch.cat, zip(*halves))) for halves in zip(*parts)])

    drawn = {replacement_of_4(damaged, epoch=epoch, seed=seed) for epoch in range(3) for seed in (7, 8)}
    assert len(drawn) > 2


def replacement_of_4(folder, epoch: int, seed: int) -> int:
    work = loader.Batches(RecordDataset(folder), Augmentation(), seed, skip_bad=True)
    _, (_, used), bad = work[epoch, np.array([4]), None]
    assert bad[0] == 4
    return int(used[0])


def test_an_image_whose_replacements_are_bad_too_is_replaced_by_a_later_draw(tmp_path):
    only_good = 5
    folder = write_rec(tmp_path, LABELS, {key: b"" for key in range(24) if key != only_good})
    work = loader.Batches(RecordDataset(folder), Augmentation(), seed=0, skip_bad=True)
    images, (labels, used), bad = work[0, np.arange(4), None]
    assert used.tolist() == [only_good] * 4
    assert labels.tolist() == [LABELS[only_good]] * 4
    assert np.array_equal(images[3].permute(1, 2, 0).numpy(), picture(only_good))
    assert {0, 1, 2, 3} < set(bad)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_data_without_a_good_image_is_an_error_and_no_endless_search(tmp_path, num_workers):
    folder = write_rec(tmp_path, LABELS, dict.fromkeys(range(24), b"none"))
    with pytest.raises(RecordError) as caught:
        batches(folder, num_workers=num_workers)
    assert str(caught.value).startswith(f"{folder}/train.rec: record ")
    assert str(caught.value).endswith(
        "its 4 bytes are no whole image that OpenCV can decode; "
        "of 100 images drawn in its place none can be used"
    )


def test_every_dataset_names_its_samples(tmp_path):
    records = RecordDataset(write_rec(tmp_path / "rec", [0, 1]))
    (tmp_path / "folder/a").mkdir(parents=True)
    (tmp_path / "folder/a/1.png").write_bytes(png(picture(0)))
    folder = FolderDataset(tmp_path / "folder")
    merged = MergedDataset([records, folder])
    names = [f"{tmp_path}/rec/train.rec: record 0", f"{tmp_path}/rec/train.rec: record 1"]
    assert [merged.name_of(i) for i in range(3)] == [*names, f"{tmp_path}/folder/a/1.png"]
    assert SyntheticDataset(2, 9).name_of(4) == "random image 4"


# ---------------------------------------------------------------- what is told


def report_twice(folder) -> tuple:
    """Both ranks meet record 4, each another one too; the second time only rank 0 has a new one."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("lqface").addHandler(handler)
    logging.getLogger("lqface").setLevel(logging.INFO)
    bad = BadRecords(RecordDataset(folder))
    bad.add([4, 7] if rank() == 0 else [4, 4], 6)
    counts = [bad.report()]
    bad.add([13, 4] if rank() == 0 else [], 6)
    counts.append(bad.report())
    return counts, bad.found, lines


def test_bad_records_of_all_ranks_are_named_once_and_counted(damaged):
    for counts, found, lines in run_ranks(2, report_twice, damaged):
        assert counts == [{"bad_records": 2}, {"bad_records": 3}]
        assert found == {4, 7, 13}
        assert lines == [
            f"{damaged}/train.rec: record {key}: its {size} bytes are no whole image that OpenCV can decode; "
            "another image takes its place"
            for key, size in ((4, 8), (7, 0), (13, 99))
        ]


def test_what_could_not_be_read_for_a_while_is_told_so(whole, caplog):
    caplog.set_level("INFO", "lqface")
    bad = BadRecords(RecordDataset(whole))
    bad.add([2], 6)
    bad.report()
    assert caplog.messages == [
        f"{whole}/train.rec: record 2 could not be read, but can be now; another image takes its place"
    ]


def test_too_large_a_share_of_bad_records_is_an_error(whole):
    dataset = SyntheticDataset(10, 5000)
    bad = BadRecords(dataset)
    bad.add(list(range(10)), 20)
    assert bad.report() == {"bad_records": 10}  # a few are no share
    bad.add(list(range(20)), 1980)
    assert bad.report() == {"bad_records": 20}  # 1 % of 2,000
    bad.add([20], 99)
    with pytest.raises(GroupError, match=r"^21 of 2099 images cannot be used, the log names them: on_bad_re"):
        bad.report()
    bad.add(list(range(51)), 10**6)  # seen again and again
    with pytest.raises(GroupError, match=r"^51 of 5000 images"):
        bad.report()


def test_a_run_that_goes_on_counts_on_and_names_no_record_again(whole, caplog):
    caplog.set_level("INFO", "lqface")
    before, after = BadRecords(RecordDataset(whole)), BadRecords(RecordDataset(whole))
    before.add([2], 6)
    before.report()
    after.load_state_dict(before.state_dict())
    caplog.clear()
    after.add([2], 6)
    assert after.report() == {"bad_records": 1}
    assert (after.num_seen, caplog.messages) == (12, [])


def test_a_run_goes_on_past_a_bad_record_and_resumes_exactly(damaged, tmp_path):
    run = ["configs/synthetic", *SMALL, f"rec={damaged}", "num_classes=None", "num_image=None", "num_steps=8"]
    run += ["save_all_states=true", "checkpoint_every=4", "on_bad_record=skip"]
    ((code, output), (stopped, error)) = train(
        [*run, f"output={tmp_path}/whole"], [*run, "on_bad_record=error", f"output={tmp_path}/stopped"]
    )
    assert code == 0, output
    assert stopped == 1
    assert error.splitlines()[-1].endswith("OpenCV can decode; on_bad_record=skip takes another in its place")
    log = (tmp_path / "whole/train.log").read_text()
    assert all(log.count(f"{damaged}/train.rec: record {key}: ") == 1 for key in BAD)
    metrics = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert [line["bad_records"] for line in metrics if line["kind"] == "train"][-1] == len(BAD)

    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed/checkpoints/step_00000008")
    ((code, output),) = train([*run, "resume=true", "num_workers=0", f"output={tmp_path}/resumed"])
    assert code == 0, output
    ends = [checkpoint.load(tmp_path / name / "checkpoints", 0, 5, 8) for name in ("whole", "resumed")]
    assert torch.equal(ends[0][1]["weight"], ends[1][1]["weight"])
    networks = [shared["backbone"] for shared, _ in ends]
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
