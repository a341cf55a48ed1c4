"""Between two log lines a training step never waits for the GPU."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbones import get_model
from dataset import to_input
from losses import build_loss, build_regularizer
from losses.aroface import AlignmentPerturbation
from partial_fc import PartialFC
from ranks.data_parallel import data_parallel
from training.fine_tuning import set_learning_rate
from training.optimizer import build_optimizer, make_scaler
from training.step_guard import StepGuard
from utils.distributed import start_process_group, stop_process_group
from utils.precision import autocast

CFG = dict(optimizer="sgd", momentum=0.9, weight_decay=0.1, no_decay_norm_bias=False)
CFG |= dict(grad_clip=1.0, max_skipped_steps=3, sampled_update=None)
WAITS = ("_local_scalar_dense", "nonzero", "_coalesce", "is_nonzero", "item", "_unique2", "masked_select")


class NoWaiting(TorchDispatchMode):
    """The device "meta" stands for a GPU: raises where an operator would wait for it."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        result = function(*arguments, **options)
        devices = [x.device.type for x in tree_leaves((arguments, options, result)) if torch.is_tensor(x)]
        name = function.overloadpacket.__name__
        if "meta" in devices:
            assert name not in WAITS, name
            is_copy = name in ("_to_copy", "copy_") and "cpu" in devices
            asynchronous = options.get("non_blocking") or (name == "copy_" and arguments[2:3] == (True,))
            assert not is_copy or asynchronous, f"{name} waits"
            # A tensor of the host in an operator on the device, a number apart, is copied before it.
            strangers = [x for x in tree_leaves((arguments, options)) if torch.is_tensor(x)]
            strangers = [x for x in strangers if x.device.type == "cpu" and x.ndim]
            assert is_copy or not strangers, f"{name} copies {strangers}"
        return result


class Step:
    """One step of train_v2.py's loop, with all that is in it between two log lines."""

    def __init__(self, device: torch.device, loss: str, names: list[str], sample_rate: float, aroface: bool):
        network = get_model("mbf", num_features=16, blocks=(1, 1, 1, 1), scale=1, dropout=0.1)
        self.device, self.backbone = device, network.to(device, memory_format=torch.channels_last)
        regularizers = [build_regularizer(name) for name in names]
        self.head = PartialFC(
            build_loss(loss), 16, 40, chunk_size=16, regularizers=regularizers, sample_rate=sample_rate
        ).to(device)
        self.ddp = data_parallel(self.backbone, device)
        self.perturb = AlignmentPerturbation() if aroface else None
        cfg, scaler = SimpleNamespace(**CFG), make_scaler("fp32", torch.device("cpu"))
        self.optimizer = build_optimizer(cfg, self.backbone, self.head, lr=0.1)
        self.guard = StepGuard(self.backbone, self.head, self.optimizer, scaler, cfg, steps=range(9))
        if device.type == "meta":  # a GPU's optimiser reads the verdict itself
            self.guard._update = lambda skipped: self.optimizer.step()
        self.images = torch.randint(256, (12, 3, 112, 112), dtype=torch.uint8)
        self.labels = torch.arange(12)

    def __call__(self, step: int) -> None:
        torch.manual_seed(step)
        set_learning_rate(self.optimizer, 0.1 / (1 + step))
        self.head.set_progress(step, 0, 1)
        self.guard.begin()
        images, labels = to_input(self.images, self.device, channels_last=True), self.labels
        precision = "bf16" if self.device.type == "cuda" else "fp32"
        with autocast(self.device, precision) if precision != "fp32" else torch.enable_grad():
            if self.perturb:
                images, labels = self.perturb(self.backbone, self.head, images, labels)
            embeddings = self.ddp(images)
        loss = self.head(embeddings, labels)
        loss.backward()
        self.guard.add(loss)
        self.guard.end()


CASES = {
    "plain": ("arcface", [], 1.0, False),
    "state, row statistics and memories": ("npcface", ["ndr", "center"], 1.0, False),
    "aroface": ("cosface", [], 1.0, True),
}


@pytest.fixture
def no_autocast(monkeypatch):
    """Of "meta", which has none."""
    real = torch.autocast
    stand_in = lambda device, *args, **kw: nullcontext() if device == "meta" else real(device, *args, **kw)  # noqa: E731
    monkeypatch.setattr(torch, "autocast", stand_in)


@pytest.mark.usefixtures("no_autocast")
@pytest.mark.parametrize("case", CASES)
def test_a_step_asks_no_gpu_for_a_number_and_copies_nothing_that_it_waits_for(case):
    step = Step(torch.device("meta"), *CASES[case])
    step(0)
    with NoWaiting():
        step(1)


def test_waiting_would_be_noticed():
    gpu = torch.ones(3, device="meta")
    for wait in (lambda: torch.ones(3).to("meta"), lambda: gpu[torch.tensor([0, 1])], lambda: gpu.nonzero()):
        with pytest.raises((AssertionError, NotImplementedError)), NoWaiting():
            wait()


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("case", CASES)
def test_a_step_never_synchronises_with_this_gpu(case):
    hidden = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, __file__, case]
    root = Path(__file__).parents[1]
    environment = hidden | {"PYTHONPATH": f"{root}:{root / 'tests'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    step = Step(start_process_group(), *CASES[sys.argv[1]])
    for i in range(3):
        step(i)
    torch.cuda.set_sync_debug_mode("error")
    step(3)
    torch.cuda.set_sync_debug_mode("default")
    stop_process_group()
