"""Features: those of the network, whatever batches, precision and ranks they are computed with."""

import io
import sys
import weakref
from threading import Lock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dataset import to_input
from eval.features import NUM_READERS, chosen_precision, extract, features_of_views
from eval.readers.bin_sets import load_bin
from eval.verification import verify
from helpers.evaluation_runs import BINS, Fake
from helpers.ranks import run_ranks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (7, 112, 112, 3), dtype=np.uint8)


def test_features_are_those_of_the_network_on_normalised_pixels(images):
    backbone = Fake().eval()
    plain, _ = extract(backbone, images, batch_size=3)
    pixels = (torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    assert (plain.shape, plain.dtype) == ((7, 8), np.float32)
    assert np.allclose(plain, backbone(pixels.float()).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_the_flipped_view_is_the_mirror_image(images):
    _, flip = extract(Fake(), images)
    mirrored, _ = extract(Fake(), np.ascontiguousarray(images[:, :, ::-1]))
    assert np.allclose(flip, mirrored, atol=1e-6)


def test_without_the_mirror_image_the_network_runs_once_a_batch(images):
    backbone, calls = Fake(), []
    backbone.register_forward_pre_hook(lambda *_: calls.append(1))
    plain, flip = extract(backbone, images, batch_size=4, mirror=False)
    assert (flip, len(calls)) == (None, 2)
    assert np.array_equal(plain, extract(Fake(), images, batch_size=4)[0])


def test_a_bgr_network_gets_bgr(images):
    backbone = Fake()
    rgb, _ = extract(backbone, np.ascontiguousarray(images[..., ::-1]))
    backbone.input_order = "BGR"
    bgr, _ = extract(backbone, images)
    assert np.array_equal(rgb, bgr)
    backbone.input_order = "GRB"
    with pytest.raises(ValueError, match="input_order is 'GRB', allowed: RGB, BGR"):
        extract(backbone, images)


def test_every_module_returns_to_its_mode_even_after_a_failure(images):
    backbone = Fake().train()
    backbone.norm.eval()  # frozen statistics
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    extract(backbone, images)
    assert (backbone.training, backbone.linear.training, backbone.norm.training) == (True, True, False)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    backbone.linear = nn.Linear(5, 5)
    with pytest.raises(RuntimeError):
        extract(backbone, images)
    assert (backbone.training, backbone.norm.training) == (True, False)


def test_features_do_not_depend_on_the_batch_size_and_repeat_bit_for_bit(images):
    whole = extract(Fake().train(), images, batch_size=7)
    for a, b in zip(whole, extract(Fake(), images, batch_size=2)):
        assert np.allclose(a, b, atol=1e-6)
    for a, b in zip(whole, extract(Fake(), images, batch_size=7)):
        assert np.array_equal(a, b)


def test_precision_changes_the_arithmetic_and_little_else(images):
    exact, _ = extract(Fake(), images)
    for precision, tolerance in (("bf16", 0.05), ("fp16", 0.01)):
        rough, _ = extract(Fake(), images, precision=precision)
        assert rough.dtype == np.float32
        error = np.abs(rough - exact).max() / np.abs(exact).max()
        assert 0 < error < tolerance


def test_both_views_in_one_pass_give_what_two_passes_give(images):
    backbone, batch = Fake().eval(), to_input(torch.from_numpy(images).permute(0, 3, 1, 2), CPU)
    for mirror in (True, False):
        with torch.no_grad():
            once, apart = (features_of_views(backbone, batch, mirror, at_once) for at_once in (True, False))
        assert once.shape == (7, 8 * (1 + mirror))
        assert torch.allclose(once, apart, atol=1e-6)


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_half_precision_on_a_gpu_that_has_it_and_never_on_a_cpu(
    images, monkeypatch, has_bf16, chosen
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert chosen_precision("auto", torch.device("cuda")) == chosen
    assert chosen_precision("auto", CPU) == "fp32"
    assert chosen_precision("fp16", CPU) == chosen_precision("fp16", torch.device("cuda")) == "fp16"
    for found, expected in zip(extract(Fake(), images, precision="auto"), extract(Fake(), images)):
        assert np.array_equal(found, expected)


def test_unusable_requests_are_errors(images):
    for bad in (images[:, :96], images.astype(np.float32), images[0], images[:0], list(images)):
        with pytest.raises(
            ValueError, match=r"expected uint8 .* each an aligned face of 112x112 pixels \(tools/align\.py"
        ):
            extract(Fake(), bad)
    with pytest.raises(ValueError, match="precision 'pf16'; did you mean 'fp16'"):
        extract(Fake(), images, precision="pf16")
    with pytest.raises(ValueError, match="batch_size is 0"):
        extract(Fake(), images, batch_size=0)


class Lazy:
    """A sequence of faces that counts how many of its batches are alive."""

    def __init__(self, images, fails_at=None):
        self.images, self.fails_at, self.alive, self.most = images, fails_at, 0, 0
        self.lock = Lock()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, part):
        if part.start == self.fails_at:
            raise ValueError("face.jpg: its 8 bytes are no whole image")
        faces = self.images[part].copy()
        self.count(1)
        weakref.finalize(faces, self.count, -1)
        return faces

    def count(self, change):
        with self.lock:
            self.alive += change
            self.most = max(self.most, self.alive)


def test_a_sequence_is_read_in_batches_of_which_few_are_in_memory():
    images = np.random.default_rng(1).integers(0, 256, (60, 112, 112, 3), dtype=np.uint8)
    lazy = Lazy(images)
    for found, expected in zip(extract(Fake(), lazy, batch_size=2), extract(Fake(), images, batch_size=2)):
        assert np.array_equal(found, expected)
    assert (
        1 <= lazy.most <= NUM_READERS + 3 < 30
    )  # waiting or being read, the next one, the one in the network
    assert lazy.alive == 0


def test_a_face_that_cannot_be_read_ends_the_extraction(images):
    with pytest.raises(ValueError, match=r"face.jpg: its 8 bytes"):
        extract(Fake(), Lazy(images, fails_at=4), batch_size=2)


def test_a_bar_is_shown_on_a_terminal_only(images, monkeypatch):
    for is_terminal, name in ((True, "model.pt"), (True, None), (False, "model.pt")):
        stderr = io.StringIO()
        stderr.isatty = lambda answer=is_terminal: answer
        monkeypatch.setattr(sys, "stderr", stderr)
        extract(Fake(), images, batch_size=3, progress=name)
        shown = stderr.getvalue()
        assert ("model.pt" in shown and "7/7" in shown) if is_terminal and name else shown == ""


NUM_IMAGES = (7, 2, 1)  # divided by neither 2 nor 3; fewer than ranks


def extract_on_rank(images: np.ndarray) -> dict:
    wrapped = DistributedDataParallel(Fake().train())  # its own forward would wait for ranks that are done
    found = {n: extract(wrapped, images[:n], batch_size=2) for n in NUM_IMAGES}
    return found | {"xnorm": verify(Fake(), *load_bin(BINS / "py3.bin"), batch_size=3).xnorm}


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_ranks_gives_every_rank_the_features_of_one_process(images, world_size):
    expected = {n: extract(Fake(), images[:n]) for n in NUM_IMAGES}
    xnorm = verify(Fake(), *load_bin(BINS / "py3.bin")).xnorm
    for found in run_ranks(world_size, extract_on_rank, images):
        for n in NUM_IMAGES:
            assert np.allclose(found[n], expected[n], atol=1e-6)
        assert found["xnorm"] == pytest.approx(xnorm, rel=1e-6)
