"""Class centres start from means of features, on any number of ranks, or from a file in a known layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import nn

from classifier.centres import initial_centres
from dataset import SyntheticDataset, to_input
from helpers.ranks import run_ranks
from losses import build_loss
from partial_fc import PartialFC
from training import checkpoint
from training.initial_centres import read_centres, start_centres
from utils.recordio import RecordError

WIDTH, CLASSES = 8, 7
CPU = torch.device("cpu")


class Features(nn.Module):
    """A fixed map of an image to 8 numbers; colours matter."""

    input_order = "RGB"

    def forward(self, images):
        pooled = nn.functional.adaptive_avg_pool2d(images, (2, 2)).flatten(1)  # (b, 12)
        weight = torch.arange(12 * WIDTH, dtype=torch.float32).view(12, WIDTH).sin()
        return pooled @ weight


class Faulty(SyntheticDataset):
    """One image that cannot be read."""

    def read(self, index):
        if index == 3:
            raise RecordError("train.rec: record 3")
        return super().read(index)


def config(**changed) -> EasyDict:
    defaults = dict(init_head="class_means", batch_size=4, precision="fp32", channels_last=False)
    return EasyDict(defaults | {"on_bad_record": "error"} | changed)


def new_head(num_classes=CLASSES) -> PartialFC:
    return PartialFC(build_loss("cosface"), WIDTH, num_classes, seed=5)


def started(dataset=None, network=None, num_classes=CLASSES, **changed) -> PartialFC:
    head = new_head(num_classes)
    dataset = dataset or SyntheticDataset(CLASSES, 30)
    start_centres(config(**changed), head, lambda: network or Features(), dataset)
    return head


def reference(dataset, network, skip=()) -> np.ndarray:
    """`(classes, 8)`, float64: means of unit features, with the length of random centres."""
    means = []
    for label in range(CLASSES):
        images = [dataset.read(i)[0] for i in range(label, len(dataset), CLASSES) if i not in skip]
        batch = to_input(
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), CPU, input_order=network.input_order
        )
        features = network(batch).double().numpy()
        mean = (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(0)
        means.append(mean / np.linalg.norm(mean))
    return np.array(means) * initial_centres(5, 0, CLASSES, WIDTH).norm(dim=1).numpy()[:, None]


def test_class_means_are_those_of_unit_features_in_the_network_s_colour_order():
    dataset, turned = SyntheticDataset(CLASSES, 30), Features()
    turned.input_order = "BGR"
    for network in (Features(), turned):
        found = started(dataset, network).weight.detach().numpy()
        np.testing.assert_allclose(found, reference(dataset, network), atol=1e-6)
    assert not np.allclose(reference(dataset, Features()), reference(dataset, turned), atol=1e-3)


def test_a_class_without_images_keeps_its_random_centre():
    head = started(num_classes=CLASSES + 2)
    assert torch.equal(head.weight[CLASSES:], new_head(CLASSES + 2).weight[CLASSES:])
    assert not torch.equal(head.weight[:CLASSES], new_head(CLASSES + 2).weight[:CLASSES])


def test_an_image_that_cannot_be_read_ends_the_run_or_is_left_out():
    with pytest.raises(RecordError, match="record 3"):
        started(Faulty(CLASSES, 30))
    found = started(Faulty(CLASSES, 30), on_bad_record="skip").weight.detach().numpy()
    expected = reference(Faulty(CLASSES, 30), Features(), skip=(3,))
    np.testing.assert_allclose(found, expected, atol=1e-6)


# ---------------------------------------------------------------- files


CENTRES = torch.arange(CLASSES * WIDTH, dtype=torch.float32).view(CLASSES, WIDTH).cos()


def array(folder: Path) -> Path:
    np.save(folder / "c.npy", CENTRES.double().numpy())
    return folder / "c.npy"


def arcface_torch(folder: Path) -> Path:
    for number, rows in enumerate(CENTRES.split([3, 3, 1])):
        content = {"state_dict_softmax_fc": {"weight": rows}, "state_dict_backbone": {}, "epoch": 1}
        torch.save(content, folder / f"checkpoint_gpu_{number}.pt")
    return folder / "checkpoint_gpu_0.pt"


def adaface(folder: Path) -> Path:
    torch.save({"state_dict": {"head.kernel": CENTRES.T.contiguous()}}, folder / "a.ckpt")
    return folder / "a.ckpt"


def own_run(folder: Path) -> Path:
    checkpoint.save(folder / "checkpoints", 4, {"step": 4}, {"weight": CENTRES}, 0)
    return folder


@pytest.mark.parametrize("write", [array, arcface_torch, adaface, own_run])
def test_centres_come_from_a_file(write, tmp_path):
    path = write(tmp_path)
    assert torch.equal(started(init_head=str(path)).weight.detach(), CENTRES)


def on_rank(path: str) -> list[np.ndarray]:
    return [head.weight.detach().numpy() for head in (started(), started(init_head=path))]


def test_ranks_hold_their_parts_of_what_one_rank_holds(tmp_path):
    means, rows = map(np.concatenate, zip(*run_ranks(3, on_rank, str(arcface_torch(tmp_path)))))
    np.testing.assert_allclose(means, started().weight.detach().numpy(), atol=1e-7)
    assert np.array_equal(rows, CENTRES.numpy())


def wrong_width(folder: Path) -> Path:
    np.save(folder / "w.npy", np.zeros((CLASSES, WIDTH + 1)))
    return folder / "w.npy"


def wrong_count(folder: Path) -> Path:
    np.save(folder / "n.npy", np.zeros((CLASSES + 1, WIDTH)))
    return folder / "n.npy"


def not_finite(folder: Path) -> Path:
    np.save(folder / "f.npy", np.full((CLASSES, WIDTH), np.nan))
    return folder / "f.npy"


def pickled(folder: Path) -> Path:
    np.save(folder / "p.npy", np.array([{}, None], dtype=object))
    return folder / "p.npy"


def second_file(folder: Path) -> Path:
    return arcface_torch(folder).with_name("checkpoint_gpu_1.pt")


def backbone_alone(folder: Path) -> Path:
    torch.save({"state_dict": {"fc.weight": torch.zeros(3, 4)}}, folder / "b.pt")
    return folder / "b.pt"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (wrong_width, r"holds centres of \(9,\) numbers, not of embedding_size=8"),
        (wrong_count, "holds 8 class centres, but this run has 7 classes"),
        (not_finite, "some centres are no finite numbers"),
        (pickled, "is no array of numbers"),
        (second_file, "name the file of rank 0"),
        (backbone_alone, "holds no class centres: allowed are"),
    ],
)
def test_a_file_without_the_centres_of_this_run_is_one_line(write, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        started(init_head=str(write(tmp_path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["none.npy", "none.pt"])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=name):
        started(init_head=str(tmp_path / name))


@pytest.mark.parametrize("kind", [np.int64, bool, complex, "U1"])
def test_an_array_of_other_numbers_is_not_cast_silently(tmp_path, kind):
    np.save(tmp_path / "c.npy", np.ones((CLASSES, WIDTH), kind))
    with pytest.raises(ValueError, match=r"c.npy is no array of numbers \(its numbers are no floating"):
        read_centres(tmp_path / "c.npy", None)
