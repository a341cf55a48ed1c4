"""Networks of every kind that evaluation and use can run: weights files, released folders, ONNX of anyone."""

import argparse
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import nn

from backbones import Backbone, load_backbone
from backbones.onnx_model import OnnxModel

WEIGHTS_FILE = "model.safetensors"  # in a folder of tools/export.py
WEIGHTS = "weights of this project, insightface, AdaFace, CVLface or LVFace, told by content"


def add_model_arguments(parser: argparse.ArgumentParser, several: bool = False, onnx: bool = True) -> None:
    """`--model` and what may have to be said of it; `onnx`: whether it may be an ONNX file."""
    add, kinds = parser.add_argument, f"{WEIGHTS}; or NAME.onnx" if onnx else WEIGHTS
    add("--model", type=Path, required=True, nargs="+" if several else None, help=kinds)
    add("--network", help="name of the network, where the file does not say it")
    add("--input-order", choices=("RGB", "BGR"), help="its colour order, where the file does not say it")


def add_normalise(parser: argparse.ArgumentParser) -> None:
    """`--normalise`, which counts for ONNX files alone."""
    parser.add_argument(
        "--normalise",
        type=float,
        nargs=2,
        metavar=("MEAN", "STD"),
        help="of an ONNX file: it takes (byte - MEAN) / STD; default: what the file says, else 127.5 127.5",
    )


def load_model(
    path: str | Path,
    network: str | None = None,
    *,
    input_order: str | None = None,
    normalise: Collection[float] | None = None,
    device: str = "cpu",
) -> nn.Module:
    """A network in evaluation mode, with `.network` and `.input_order`, whatever holds it.

    Args:
        path: a weights file, a folder with model.safetensors, or an ONNX file.
        network, input_order: where the file does not say them.
        normalise: of an ONNX file: (first, second), see `OnnxModel`.
        device: "cpu", "cuda", "cuda:1" ….
    Raises:
        FileNotFoundError: no such file.
        ValueError: see `load_backbone` and `OnnxModel`; a setting that would be ignored.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        if network is not None:
            raise ValueError(f"--network {network} means nothing for {path}: an ONNX file is the network")
        return OnnxModel(path, input_order, normalise, device).eval()
    if normalise is not None:
        raise ValueError(f"--normalise is for ONNX files: the weights in {path} take images in [-1, 1]")
    return load_weights(path, network, input_order).to(device)


def load_weights(path: Path, network: str | None = None, input_order: str | None = None) -> Backbone:
    """A network of this project, from a weights file or a folder with model.safetensors."""
    path = path / WEIGHTS_FILE if path.is_dir() else path
    return load_backbone(path, network, input_order=input_order)


def check_precision(model: nn.Module, precision: str) -> None:
    """Require a precision that counts: an ONNX file has its own.

    Raises:
        ValueError: another than "fp32" or "auto", for an ONNX file.
    """
    if isinstance(model, OnnxModel) and precision not in ("fp32", "auto"):
        raise ValueError(f"--precision {precision} means nothing for {model.path}: an ONNX file has its own")


def input_of(model: nn.Module) -> dict:
    """What the features depend on beside file, images and precision: colour order, ONNX's normalisation."""
    found = {"input_order": model.input_order}
    return found | ({"normalise": [model.mean, model.std]} if isinstance(model, OnnxModel) else {})


def file_hash(path: Path) -> str:
    """SHA-256 of a model: of a folder its weights count, of an ONNX file also its PATH.data."""
    path = path / WEIGHTS_FILE if path.is_dir() else path
    beside = Path(f"{path}.data")
    digest = hashlib.sha256()
    for part in [path, *([beside] if path.suffix == ".onnx" and beside.is_file() else [])]:
        with open(part, "rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def made_otherwise(theirs: Mapping, ours: Mapping) -> str:
    """How what a file was made with differs from what is used here, in words; "" where it does not.

    Args:
        theirs, ours: what embeddings depend on: file, sha256, mirror ….
    """
    for what, value in theirs.items():
        here = ours.get(what)
        if what == "sha256" and value != here:
            hashes = f"sha256 {str(value)[:8]}…, here {str(here)[:8]}…"
            return f"is of another model, {theirs.get('file')} ({hashes})"
        if what not in ("file", "sha256") and value != here:
            return f"was made with {what} {value}, not {here}"
    return ""


def load_network(args: argparse.Namespace) -> Backbone:
    """The network that `add_model_arguments` named, for what ONNX files cannot do.

    Raises:
        ValueError: it is an ONNX file.
    """
    if args.model.suffix.lower() == ".onnx":
        raise ValueError(f"--model {args.model} is an ONNX file: this takes weights, of which it was made")
    return load_weights(args.model, args.network, args.input_order)
