"""Peak memory of one step, measured in a process of its own, against the size of the logit matrix."""

import subprocess
import sys
from pathlib import Path

import pytest

BATCH, CLASSES, SIZE = 256, 100_000, 128
LOGITS_MIB = BATCH * CLASSES * 4 / 2**20  # 98 MiB
GRADIENT_MIB = CLASSES * SIZE * 4 / 2**20

# VmHWM is the peak of this very process; getrusage's would begin at that of the process that started it.
STEP = """
import torch
from losses import build_loss
from partial_fc import PartialFC

def peak_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

def step(num_classes):
    head = PartialFC(build_loss(LOSS, **HYPER), SIZE, num_classes, engine=ENGINE, chunk_size=1024)
    embeddings = torch.randn(BATCH, SIZE, requires_grad=True)
    labels = torch.arange(BATCH) % num_classes
    before = peak_mib()
    head(embeddings, labels).backward()
    return peak_mib() - before

torch.set_num_threads(1)
step(1000)  # libraries and their workspaces
print(step(CLASSES))
"""


def growth_mib(engine: str, loss: str, hyper: dict) -> float:
    """Growth of the peak in one step, beyond the centres and their gradient."""
    sizes = f"BATCH, CLASSES, SIZE = {BATCH}, {CLASSES}, {SIZE}"
    script = f"{sizes}\nENGINE, LOSS, HYPER = {engine!r}, {loss!r}, {hyper!r}\n{STEP}"
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return float(done.stdout) - GRADIENT_MIB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's VmHWM")
@pytest.mark.parametrize("hyper", [{}, {"interclass_filtering_threshold": 0.3}], ids=["fused", "elementwise"])
def test_stream_never_holds_the_logit_matrix(hyper):
    assert growth_mib("stream", "combined", hyper) < 0.25 * LOGITS_MIB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's VmHWM")
def test_dense_does_hold_it_so_the_measure_works():
    assert growth_mib("dense", "combined", {}) > LOGITS_MIB
