"""Every network at its full size as ONNX: `make test-export`, half an hour and 16 GB of memory.

No test_*.py, so that `make test` leaves it out; tests/test_export.py exports a small network of each family.
For each name it prints the row of docs/export.md.
"""

import time

import onnx
import pytest
import torch

from backbones import MODEL_NAMES, get_model
from backbones.export import description, write_onnx
from helpers.backbone_cases import case, images
from tools.export import ALLOWED, COUNTS, difference, onnx_output


@pytest.mark.parametrize("name", [case(name) for name in MODEL_NAMES])
def test_every_name_becomes_onnx(name, tmp_path, capsys):
    torch.manual_seed(0)
    network, start = get_model(name), time.perf_counter()
    with torch.no_grad():
        network.train()(images(4) + 0.3)  # statistics that are no identity, so that a wrong folding shows
    network.eval()
    path = tmp_path / "network.onnx"
    write_onnx(path, network, description(network), batch=None, legacy=False)
    nodes = len(onnx.load(path, load_external_data=False).graph.node)
    worst = difference(network, onnx_output(path), COUNTS)
    size = sum(file.stat().st_size for file in tmp_path.iterdir()) / 1e6
    with capsys.disabled():
        seconds = time.perf_counter() - start
        print(f"\n| `{name}` | {nodes:,} | {size:,.0f} MB | {worst:.1e} |  ({seconds:.0f} s)")
    assert worst < ALLOWED
