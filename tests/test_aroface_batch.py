"""ARoFace: what becomes of the batch, no trace of the adversarial pass, ranks, settings."""

import copy
import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from helpers.aroface_cases import batch, make_backbone, make_head, perturb, record_parameters
from helpers.ranks import run_ranks
from losses.aroface import MIN_FORWARD_BATCH, AlignmentPerturbation
from utils.distributed import rank

OTHER_VALUES = {
    "ratio": 0.5,
    "eta_scale": 0.3,
    "eta_theta": 0.3,
    "eta_t": 0.2,
    "steps": 2,
    "mixing": "independent",
    "exact_identity": False,
}
OUT_OF_RANGE = {
    "ratio": [-0.1, 1.1, math.nan],
    "eta_scale": [-0.1, math.nan, math.inf],
    "eta_theta": [-0.1, math.nan, math.inf],
    "eta_t": [-0.1, math.nan, math.inf],
    "steps": [0, 1.5],
    "mixing": ["both"],
    "exact_identity": [1],
}


def num_changed(before: Tensor, after: Tensor) -> int:
    return int(((after - before).abs().amax((1, 2, 3)) > 0.01).sum())


# ---- the batch


@pytest.mark.parametrize(("size", "ratio", "warped"), [(32, 0.75, 8), (5, 0.75, 1), (9, 0.0, 9), (9, 1.0, 0)])
def test_each_image_appears_once_at_its_place_and_a_share_is_warped(size, ratio, warped):
    images, labels = batch(size)
    kept = images.clone()
    mixed, mixed_labels = perturb(images, labels, ratio=ratio)
    assert torch.equal(mixed_labels, labels)
    assert mixed.shape == images.shape
    assert num_changed(images, mixed) == warped
    assert (mixed == images).all((1, 2, 3)).sum() == size - warped
    assert torch.equal(images, kept)
    assert not mixed.requires_grad


@pytest.mark.parametrize(("ratio", "clean"), [(0.75, 30), (0.0, 0), (1.0, 40)])
def test_independent_mixing_draws_twice_and_leaves_out_and_keeps_labels_with_images(ratio, clean):
    images, labels = batch(40)
    names = [image.numpy().tobytes() for image in images]
    mixed, mixed_labels = perturb(images, labels, ratio=ratio, mixing="independent", eta_t=0.0)
    mixed_names = [image.numpy().tobytes() for image in mixed]
    found = {i: names.index(name) for i, name in enumerate(mixed_names) if name in names}
    assert len(mixed) == 40
    assert len(found) == len(set(found.values())) == clean
    assert all(mixed_labels[i] == labels[source] for i, source in found.items())
    if ratio == 0.75:
        rest = [i for i in range(40) if i not in found]
        nearest = [int((images - mixed[i]).abs().mean((1, 2, 3)).argmin()) for i in rest]
        assert all(labels[n] == mixed_labels[i] for n, i in zip(nearest, rest))
        assert set(nearest) & set(found.values())  # an image both clean and warped, another not at all


def test_only_the_images_to_be_warped_pass_through_the_backbone():
    backbone, sizes = make_backbone(), []
    backbone.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    for size, hyper in ((64, {}), (12, {}), (64, {"ratio": 0.0}), (64, {"steps": 3}), (64, {"ratio": 1.0})):
        perturb(*batch(size), backbone=backbone, **hyper)
    assert sizes == [16, MIN_FORWARD_BATCH, 64, 16, 16, 16]


def test_a_single_image_to_warp_has_company_in_batch_norm_and_climbs(monkeypatch):
    steps = record_parameters(monkeypatch)
    perturb(*batch(4))
    assert steps[0].shape == (1, 4)
    assert (steps[-1] - steps[0]).abs().min() > 0.09


def test_channels_last_stays_channels_last():
    images, labels = batch(8)
    mixed, _ = perturb(images.contiguous(memory_format=torch.channels_last), labels)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(mixed, perturb(images, labels)[0], rtol=0, atol=1e-4)


# ---- no trace


@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
@pytest.mark.parametrize("engine", ["dense", "stream"])
def test_the_pass_leaves_no_trace_in_backbone_and_head(engine, sample_rate):
    backbone, head = make_backbone(), make_head("curricularface", engine=engine, sample_rate=sample_rate)
    images, labels = batch(12)
    head(backbone(images), labels).backward()
    backbone.zero_grad(), head.zero_grad()
    before = copy.deepcopy((backbone.state_dict(), head.state_dict()))
    perturb(images, labels, backbone=backbone, head=head, ratio=0.25, steps=2)
    for kept, module in zip(before, (backbone, head)):
        for name, value in module.state_dict().items():
            same = torch.equal(kept[name], value) if torch.is_tensor(value) else kept[name] == value
            assert same, name
    parameters = [*backbone.parameters(), *head.parameters()]
    assert all(p.grad is None and p.requires_grad for p in parameters)


def test_an_error_on_the_way_leaves_no_trace_either():
    backbone, head = make_backbone(), make_head()
    images, labels = batch(12)
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(ValueError, match="outside"):
        perturb(images, labels + 100, backbone=backbone, head=head)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    head(backbone(images), labels).backward()
    assert head.weight.grad is not None


def test_torch_s_seed_is_all_that_the_batch_depends_on():
    images, labels = batch(32)
    np.random.seed(0)  # noqa: NPY002
    first = perturb(images, labels)[0]
    np.random.seed(1)  # noqa: NPY002
    assert torch.equal(first, perturb(images, labels)[0])
    assert not torch.equal(first, perturb(images, labels, seed=6)[0])


# ---- ranks


def train_on_a_rank(engine: str, sizes: tuple[int, ...]) -> dict:
    """One training step behind DDP with a batch of `sizes[rank]`, perturbed, and once more as it came out."""
    images, labels = batch(sizes[rank()])
    results, mixed = [], None
    for perturbed in (True, False):
        backbone, head = make_backbone(), make_head(engine=engine)
        ddp = DistributedDataParallel(backbone)
        if perturbed:
            torch.manual_seed(3)  # the same on both ranks
            mixed = AlignmentPerturbation()(backbone, head, images, labels)
        head(ddp(mixed[0]), mixed[1]).backward()
        results.append([p.grad for p in (*backbone.parameters(), *head.parameters())])
        results[-1] += [b.clone() for b in backbone.buffers()]
    equal = all(torch.equal(a, b) for a, b in zip(*results))
    return {"changed": num_changed(images, mixed[0]), "equal": equal, "images": mixed[0]}


def train_with_all_sizes() -> dict:
    settings = itertools.product(("dense", "stream"), ((16, 16), (12, 2), (2, 2)))
    return {setting: train_on_a_rank(*setting) for setting in settings}


def test_ranks_warp_their_own_images_differently_and_train_on_as_if_nothing_had_been():
    by_rank = run_ranks(2, train_with_all_sizes)
    for engine, sizes in by_rank[0]:
        results = [result[engine, sizes] for result in by_rank]
        assert [result["changed"] for result in results] == [round(size / 4) for size in sizes]
        assert all(result["equal"] for result in results)
        if sizes == (16, 16):  # the same images, labels, settings and seed; only the rank differs
            assert not torch.equal(results[0]["images"], results[1]["images"])


def test_ddp_in_place_of_the_bare_backbone_is_refused():
    with pytest.raises(AssertionError, match="bare"):
        perturb(*batch(4), backbone=DistributedDataParallel.__new__(DistributedDataParallel))


# ---- settings


def test_every_setting_is_tested():
    assert set(OTHER_VALUES) == set(OUT_OF_RANGE) == set(inspect.signature(AlignmentPerturbation).parameters)


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_every_setting_changes_the_batch(key):
    images, labels = batch(16)
    assert not torch.equal(perturb(images, labels)[0], perturb(images, labels, **{key: OTHER_VALUES[key]})[0])


@pytest.mark.parametrize("key", OUT_OF_RANGE)
def test_a_setting_out_of_range_is_an_error_that_names_setting_and_value(key):
    for value in OUT_OF_RANGE[key]:
        with pytest.raises(ValueError, match=f"{key}={value!r} is out of range"):
            AlignmentPerturbation(**{key: value})
