"""The scripts that check and measure the GPU kernels, and what they say where there is no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import batch_norm, kernel_check
from classifier.kernels.tiles import SMALL, TILES

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str, folder: Path, timeout: float) -> list[dict]:
    """The rows that a script prints in a process without Triton's interpreter, which may see a GPU."""
    hidden = ("TRITON_INTERPRET", "CUDA_VISIBLE_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["TRITON_CACHE_DIR"] = str(folder)
    command = [sys.executable, f"benchmarks/{script}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_the_compiler_takes_every_kernel_and_it_fits_on_an_h100(tmp_path):
    """Without a card, as the host would launch them on it: types, tiles, memory of the chip."""
    arguments = ["--compile", "9.0", "--classes", "2048", "--loss", "npcface"]
    rows = run("kernel_tiles", *arguments, folder=tmp_path, timeout=280)
    assert len({row["kernel"] for row in rows}) == 5 + 5  # of the classifier, of BatchNorm
    assert max(row["shared_kib"] for row in rows) <= 227
    assert max(row["spilled_bytes"] for row in rows) <= 512  # of the widest tile, once, behind the loop


def test_tiles_are_powers_of_two_that_a_product_can_have():
    for tiles in [*TILES.values(), *SMALL.values()]:
        for size in (tiles.classes, tiles.samples, tiles.rows, tiles.dims):
            assert size >= 16
            assert size & (size - 1) == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_check_finds_the_kernels_right_and_a_wrong_one_wrong(monkeypatch, precision):
    sizes = dict(classes=60, batch=12, dim=20, rate=1.0)
    assert kernel_check.check("curricularface", {}, precision, sizes)["ok"]
    right = kernel_check.run

    def halved(*arguments, **settings):
        got = right(*arguments, **settings)
        return {name: value / 2 for name, value in got.items()} if settings.get("kernels") else got

    monkeypatch.setattr(kernel_check, "run", halved)
    assert not kernel_check.check("curricularface", {}, precision, sizes)["ok"]


@pytest.mark.parametrize("kind", batch_norm.PASSES)
def test_the_check_of_batch_norm_finds_it_right_and_a_wrong_one_wrong(monkeypatch, kind):
    assert batch_norm.check(kind, (4, 6, 5, 5), "fp16")["ok"]  # the interpreter cuts digits off for bf16
    right = batch_norm.Case.outcome

    def halved(self, kernels):
        got = right(self, kernels)
        return got | {"x": got["x"] / 2} if kernels else got

    monkeypatch.setattr(batch_norm.Case, "outcome", halved)
    assert not batch_norm.check(kind, (4, 6, 5, 5), "fp16")["ok"]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="needs an NVIDIA GPU")
def test_batch_norm_is_right_on_this_gpu(tmp_path):
    arguments = ["--precisions", "fp32", "bf16", "fp16", "--shapes", "64:56", "70:5", "512:7", "--large"]
    rows = run("batch_norm", *arguments, folder=tmp_path, timeout=290)
    assert rows
    assert all(row["ok"] for row in rows)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="needs an NVIDIA GPU")
def test_all_losses_are_right_on_this_gpu(tmp_path):
    """1e-5 in float32 with tf32 off; in bf16 twice the error of dense at most; equal bits from run to run."""
    rows = run("kernel_check", "--precisions", "fp32", "bf16", folder=tmp_path, timeout=290)
    assert rows
    assert all(row["ok"] for row in rows)
