"""ONNX files of anyone as networks: what they take is found in the file, or said by the user.

onnxruntime runs them. A file of tools/export.py says in its metadata which colour order it takes, and how
pixels are normalised. Of other files shape, type and layout of the input are read, and whether the graph
begins by normalising, as insightface's recent models do. The colour order is nowhere, and has to be said.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from utils.errors import needed_package

from .export import FORMAT, SIZE, from_text

USUAL = (127.5, 127.5)  # insightface's and AdaFace's: bytes to [-1, 1]
ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
MOVES = {"Cast", "Identity", "Transpose", "Slice", "Gather", "Split", "Concat", "Reshape", "Unsqueeze"}
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class OnnxModel(nn.Module):
    """An ONNX file that takes the place of a backbone: `(N, 3, 112, 112)` in [-1, 1] -> `(N, D)` float32.

    Args:
        path: the file.
        input_order: "RGB" or "BGR", for files that do not say it.
        normalise: (first, second): the network takes (v - first) / second of bytes v; (0, 1): bytes as they
            are. None: what the metadata say; else as they are where the graph begins with arithmetic or takes
            uint8, else [-1, 1].
        device: where it runs, if onnxruntime has a provider for it.
    Raises:
        FileNotFoundError: no such file.
        ValueError: a package is missing, no model that can be run, an input that is no face, an input order
            that nobody said or that contradicts the file.
    """

    def __init__(
        self,
        path: str | Path,
        input_order: str | None = None,
        normalise: Sequence[float] | None = None,
        device: str = "cpu",
    ):
        super().__init__()
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no model file {str(path)!r}")
        self.session = _session(self.path, device)
        about = from_text(self.session.get_modelmeta().custom_metadata_map)
        about = about if about.get("format") == FORMAT else {}
        entry, self.output = self.session.get_inputs(), self.session.get_outputs()[0].name
        if len(entry) != 1:
            raise ValueError(f"{path} has {len(entry)} inputs, expected one: images")
        self.input, self.type = entry[0].name, _type(self.path, entry[0].type)
        self.channels_last, self.size = _layout(self.path, entry[0].shape)
        self.batch = entry[0].shape[0] if isinstance(entry[0].shape[0], int) else None
        self.network = about.get("network", "onnx")
        self.input_order = _order(self.path, input_order, about.get("input_order"))
        self.mean, self.std = self._normalisation(normalise, about)

    def _normalisation(self, given: Sequence[float] | None, about: dict) -> tuple[float, float]:
        if given is not None:
            if given[1] == 0:
                raise ValueError(f"normalise is {tuple(given)}: the second number divides, so it is not 0")
            return float(given[0]), float(given[1])
        if about:
            return tuple(about["normalise"] or (0.0, 1.0))
        takes_bytes = self.type is np.uint8 or begins_with_arithmetic(self.path, self.input)
        return (0.0, 1.0) if takes_bytes else USUAL

    def forward(self, images: Tensor) -> Tensor:
        """Features `(N, D)` float32 of images `(N, 3, 112, 112)` in [-1, 1], in the order `input_order`."""
        device, count = images.device, len(images)
        pixels = (images.float() * 127.5 + 127.5).round_().clamp_(0, 255)  # the bytes that they were
        if self.size != SIZE:
            pixels = interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        if (self.mean, self.std) != (0, 1):
            pixels = (pixels - self.mean) / self.std
        if self.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        array = np.ascontiguousarray(pixels.cpu().numpy()).astype(self.type)
        step = self.batch or max(count, 1)
        parts = [self._run(array[at : at + step], step) for at in range(0, count, step)]
        return torch.from_numpy(np.concatenate(parts)).to(device)

    def _run(self, array: np.ndarray, step: int) -> np.ndarray:
        missing = step - len(array)  # a file with a fixed batch wants it whole
        filled = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
        found = self.session.run([self.output], {self.input: filled})[0]
        if found.ndim != 2 or len(found) != len(filled):
            raise ValueError(f"{self.path} gives {found.shape} for {len(filled)} images, expected (N, D)")
        return found[: len(array)].astype(np.float32)


def _session(path: Path, device: str):
    runtime = needed_package("onnxruntime", "to run ONNX files")
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    providers = [name for name in wanted if name in runtime.get_available_providers()]
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each fault
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is no ONNX file that onnxruntime can run ({reason})") from error


def _type(path: Path, name: str) -> type:
    if name not in TYPES:
        raise ValueError(f"{path} takes {name}, expected images: {', '.join(TYPES)}")
    return TYPES[name]


def _layout(path: Path, shape: list) -> tuple[bool, int]:
    """Whether channels are last, and the width and height; 112 where the file leaves them open."""
    if len(shape) == 4 and 3 in (shape[1], shape[3]):
        channels_last = shape[1] != 3
        sides = {side for side in (shape[1:3] if channels_last else shape[2:4]) if isinstance(side, int)}
        if len(sides) < 2:
            return channels_last, sides.pop() if sides else SIZE
    raise ValueError(f"{path} takes {shape}, expected square images, [N, 3, 112, 112] or [N, 112, 112, 3]")


def _order(path: Path, given: str | None, written: str | None) -> str:
    if given not in (None, "RGB", "BGR"):
        raise ValueError(f"input_order is {given!r}, allowed: RGB, BGR")
    if written and given and written != given:
        raise ValueError(f"{path} says that it takes {written}, not {given}")
    if not (written or given):
        raise ValueError(
            f"{path} does not say its colour order, and with the wrong one every feature is wrong: "
            "--input-order RGB (insightface's models) or --input-order BGR (AdaFace's)"
        )
    return written or given


def begins_with_arithmetic(path: Path, name: str) -> bool:
    """Whether the graph subtracts, multiplies or the like before its first layer, as a normalisation does.

    Args:
        name: of the input.
    """
    graph = needed_package("onnx", "to look into ONNX files").load(path, load_external_data=False).graph
    for node in graph.node:  # in the order in which they are computed
        if name in node.input:
            if node.op_type in ARITHMETIC:
                return True
            if node.op_type not in MOVES:
                return False
            name = node.output[0]
    return False
