"""A network for other programs: ONNX, TorchScript, and a folder of safetensors with its config.json.

What a program has to know of the input goes with the network, as `description`: in the metadata of an ONNX
file, where `onnx_model.py` reads it again, in `lqface.json` inside TorchScript, in config.json of the folder.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import needed_package
from utils.files import write_json

from .backbone import Backbone
from .layouts import FORMAT
from .loading import save_backbone

SIZE = 112
OPSET = 20  # of torch's exporter today; what it writes is not converted to another
LEGACY_OPSET = 17  # what converters of 2023 and later read
PROTOBUF_LIMIT = 2**31 - 2**26  # bytes of one ONNX file, with room for the graph
WEIGHTS, CONFIG, DESCRIPTION = "model.safetensors", "config.json", "lqface.json"


class Deployed(nn.Module):
    """A network with its preparation: uint8 pixels `(N, 112, 112, 3)` to embeddings `(N, D)`.

    Args:
        backbone: takes float images in [-1, 1], in the order of its `input_order`.
        pixels: "RGB" or "BGR", the order of the channels in the images.
    """

    def __init__(self, backbone: Backbone, pixels: str):
        super().__init__()
        self.backbone, self.turned = backbone, pixels != backbone.input_order

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).float()
        x = (x.flip(1) if self.turned else x).sub(127.5).div(127.5)
        return self.backbone(x)


def deployed(backbone: Backbone, pixels: str | None = None) -> nn.Module:
    """What is exported, in evaluation mode: the network alone, or with its preparation from bytes.

    Args:
        pixels: "RGB" or "BGR": images are uint8 `(N, 112, 112, 3)` in this order. None: they are float
            `(N, 3, 112, 112)` in [-1, 1], in the network's own order.
    """
    return (backbone if pixels is None else Deployed(backbone, pixels)).eval()


def description(backbone: Backbone, pixels: str | None = None) -> dict:
    """What a program has to know of the exported network, in plain values."""
    return {
        "format": FORMAT,
        "network": backbone.network,
        "num_features": backbone.num_features,
        "network_args": backbone.network_args,
        "input_order": pixels or backbone.input_order,
        "layout": "NCHW" if pixels is None else "NHWC",
        "image_size": SIZE,
        "normalise": [127.5, 127.5] if pixels is None else None,  # of bytes: (v - first) / second
        "alignment": "five landmarks on insightface's 112x112 template",
    }


def example(network: nn.Module, count: int, seed: int = 0) -> Tensor:
    """Random images that `deployed` takes."""
    random = torch.Generator().manual_seed(seed)
    if isinstance(network, Deployed):
        return torch.randint(0, 256, (count, SIZE, SIZE, 3), generator=random, dtype=torch.uint8)
    return torch.rand(count, 3, SIZE, SIZE, generator=random) * 2 - 1


def write_onnx(path: Path, network: nn.Module, about: dict, *, batch: int | None, legacy: bool) -> None:
    """Write an ONNX file; of more than 2 GB the weights go to PATH.data.

    Args:
        path: in a folder of its own, as `utils.files.whole_files` makes one.
        network: of `deployed`.
        about: of `description`, for the metadata.
        batch: images in each call; None: any number.
        legacy: torch's exporter of TorchScript, opset 17, for old consumers.
    Raises:
        ValueError: a package is missing, or a network that the old exporter cannot write.
    """
    onnx = needed_package("onnx", "to write ONNX files", "onnx onnxscript")
    num_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())
    large = num_bytes > PROTOBUF_LIMIT
    options = {"input_names": ["images"], "output_names": ["embeddings"]}
    if legacy:
        if large:
            raise ValueError(f"{num_bytes:,} bytes of weights do not fit a --legacy file, which has 2 GB")
        axes = {name: {0: "batch"} for name in ("images", "embeddings")}
        options |= {"dynamo": False, "opset_version": LEGACY_OPSET, "dynamic_axes": None if batch else axes}
    else:
        needed_package("onnxscript", "to write ONNX files", "onnx onnxscript")
        shapes = None if batch else ({0: torch.export.Dim("batch", min=1)},)
        options |= {"dynamo": True, "verbose": False, "external_data": large, "dynamic_shapes": shapes}
    with quiet():  # a batch of 2 is an example of any: 1 would be taken for fixed
        torch.onnx.export(network, (example(network, batch or 2),), str(path), **options)
    model = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(model, as_text(about))
    onnx.save(model, path)


def write_torchscript(path: Path, network: nn.Module, about: dict) -> None:
    """Write a traced network that `torch.jit.load` runs without this project, with any number of images."""
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(network, example(network, 2))
        torch.jit.save(traced, str(path), _extra_files={DESCRIPTION: json.dumps(about)})


def write_release(folder: Path, backbone: Backbone) -> None:
    """Write model.safetensors, which `load_backbone` reads, and config.json into a folder."""
    about = description(backbone)
    names = {key: about[key] for key in ("network", "num_features", "network_args", "input_order")}
    save_backbone(folder / WEIGHTS, backbone, **names)
    write_json(folder / CONFIG, about)


def as_text(about: dict) -> dict[str, str]:
    """A description for metadata that hold text only: what is no text becomes JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def from_text(metadata: dict[str, str]) -> dict:
    """What `as_text` made; entries of others stay text."""
    found = dict(metadata)
    for key, value in metadata.items():
        with suppress(ValueError):
            found[key] = json.loads(value)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters say of their own affairs: deprecations, and each check of a shape."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
