"""Every network at its full size as ONNX: `make test-export`, half an hour and 16 GB of memory.

No test_*.py, so that `make test` leaves it out; tests/test_export.py exports a small network of each family.
"""

import pytest

from backbones import MODEL_NAMES, get_model
from backbones.export import description, write_onnx
from helpers.backbone_cases import case
from tools.export import ALLOWED, COUNTS, difference, onnx_output


@pytest.mark.parametrize("name", [case(name) for name in MODEL_NAMES])
def test_every_name_becomes_onnx(name, tmp_path):
    network = get_model(name).eval()
    path = tmp_path / "network.onnx"
    write_onnx(path, network, description(network), batch=None, legacy=False)
    assert difference(network, onnx_output(path), COUNTS) < ALLOWED
