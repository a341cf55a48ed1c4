"""Precision "auto": bfloat16 where the machine computes with it, and nowhere else."""

import pytest
import torch

from utils import precision
from utils.config import get_config


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fma avx avx2", "fp32"),
        ("avx2 avx512f avx512_bf16", "bf16"),
        ("amx_bf16 avx2", "bf16"),
        ("asimd bf16 sve", "bf16"),  # ARM
        ("", "fp32"),  # not Linux
    ],
)
def test_auto_is_bf16_on_processors_that_have_it(flags, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "cpu_flags", lambda: set(flags.split()))
    assert precision.fast_precision() == expected
    assert get_config("synthetic", ["precision=auto"]).precision == expected


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_asks_the_gpu_where_there_is_one(supported, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"avx512_bf16"} if not supported else set())
    assert precision.fast_precision() == expected


def test_a_machine_that_does_not_list_its_processor_has_no_flags(monkeypatch):
    class Missing:
        def __init__(self, path):
            pass

        def read_text(self):
            raise FileNotFoundError

    monkeypatch.setattr(precision, "Path", Missing)
    assert precision.cpu_flags() == set()


@pytest.mark.parametrize(
    ("gpu", "flags", "network", "kind", "expected"),
    [
        (True, "", "r50", "bf16", True),
        (True, "", "r50", "fp16", True),
        (True, "avx512f", "r50", "fp32", False),
        (True, "", "vit_b", "bf16", False),
        (False, "avx2 avx512f", "mbf", "fp32", True),
        (False, "avx2 avx512f", "ir_50", "bf16", True),
        (False, "avx2", "mbf", "fp32", False),
        (False, "avx512f", "vit_t", "fp32", False),
    ],
)
def test_channels_last_is_chosen_where_it_was_measured_to_be_faster(
    gpu, flags, network, kind, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(precision, "cpu_flags", lambda: set(flags.split()))
    overrides = [f"network={network}", f"precision={kind}"]
    assert get_config("synthetic", [*overrides, "channels_last=auto"]).channels_last is expected
    assert get_config("synthetic", [*overrides, "channels_last=false"]).channels_last is False
