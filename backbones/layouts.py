"""Layouts of weights files: where the backbone is in them, and which colour order it was trained with.

    this project     "format", "network", …, "state_dict"; says its colour order
    insightface      a bare state_dict, or checkpoint_gpu_N.pt with "state_dict_backbone"; RGB
    AdaFace          a Lightning checkpoint: "state_dict" with model.* and head.*; BGR
    CVLface          keys net.*, beside model.yaml with its color_space; RGB without that file
    LVFace           insightface's vision transformers; RGB

Keys may begin with "module." (DistributedDataParallel) and "_orig_mod." (torch.compile), in any order.
The keys of AdaFace's networks are also those of face.evoLVe, TFace and CVLface, which trained them on RGB: a
bare state_dict of them does not tell.
"""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .adaface_ir import AdaFaceIR
from .backbone import Backbone
from .registry import MODELS

FORMAT = "lqface"
ORDERS = ("RGB", "BGR")
WHERE = ("state_dict", "state_dict_backbone")  # the entry that holds the weights, where there is one
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


class Layout(NamedTuple):
    """What a file says.

    Attributes:
        weights: the backbone's state_dict.
        family: of the network.
        num_features: numbers in an embedding.
        network, network_args: of a file of this project; else None and {}.
        input_order: "RGB" or "BGR"; None: the file does not say.
    """

    weights: dict[str, Tensor]
    family: type[Backbone]
    num_features: int
    network: str | None
    network_args: dict
    input_order: str | None


def layout_of(path: Path, content: dict) -> Layout:
    """The backbone in what `read_weight_file` returned.

    Raises:
        ValueError: there is none, a weight is no finite number, or a setting of this project's is damaged.
    """
    whole = next((content[key] for key in WHERE if key in content), content)
    if not _is_state_dict(whole):
        raise ValueError(f"{path} holds no state_dict, but {_shown(content, 5)}")
    weights, prefixes = dict(whole), []
    while found := [p for p in PREFIXES if any(key.startswith(p) for key in weights)]:
        prefixes.append(found[0])
        weights = {k.removeprefix(found[0]): v for k, v in weights.items() if k.startswith(found[0])}
    family = _family(path, weights)
    _check_weights(path, weights)
    shape = weights[family.embedding_weight].shape
    if not shape or shape[0] < 1:
        raise ValueError(f"{path}: {family.embedding_weight} has the shape {tuple(shape)}: damaged")
    if isinstance(content.get("format"), str) and content["format"] == FORMAT:
        return Layout(weights, family, shape[0], *_own_settings(path, content, len(weights)))
    order = None if family is AdaFaceIR else "RGB"
    if "net." in prefixes:
        order = _order_in_yaml(path) or "RGB"
    elif "model." in prefixes and any(key.startswith("head.") for key in whole):
        order = "BGR"  # AdaFace's Lightning module holds the classifier too
    return Layout(weights, family, shape[0], None, {}, order)


def _is_state_dict(value) -> bool:
    if not isinstance(value, dict):
        return False
    return all(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())


def _family(path: Path, weights: dict[str, Tensor]) -> type[Backbone]:
    families = dict.fromkeys(family for family, _ in MODELS.values())
    for family in families:
        if family.embedding_weight in weights:
            return family
    wanted = ", ".join(f"{family.embedding_weight} ({family.__name__})" for family in families)
    raise ValueError(f"{path} holds no known backbone: it has none of {wanted}, but {_shown(weights, 3)}")


def _check_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Require numbers that a network can compute with; its counters of batches are not looked at."""
    for key, tensor in weights.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_quantized or tensor.layout is not torch.strided or tensor.is_meta:
            raise ValueError(f"{path}: {key} is no plain tensor (quantised, sparse or without numbers)")
        if not tensor.is_floating_point() and not key.endswith("num_batches_tracked"):
            raise ValueError(f"{path}: {key} is of type {kind}, allowed are floating-point numbers")


def _own_settings(path: Path, content: dict, num_tensors: int) -> tuple[str, dict, str]:
    """(network, network_args, input_order) of a file of this project."""
    network, args, order = (content.get(key) for key in ("network", "network_args", "input_order"))
    if not isinstance(network, str) or not isinstance(args, dict) or order not in ORDERS:
        raise ValueError(
            f"{path} is damaged: network={network!r}, network_args={args!r}, input_order={order!r}"
        )
    layers = [count for name in ("blocks", "depth") for count in _numbers(args.get(name))]
    if any(not isinstance(key, str) or key in ("name", "num_features") for key in args) or any(
        count > num_tensors
        for count in layers  # it would take hours to build such a network
    ):
        raise ValueError(f"{path} is damaged: network_args={args!r} is not of its {num_tensors} tensors")
    return network, args, order


def _numbers(value) -> list[float]:
    values = value if isinstance(value, list | tuple) else [value]
    return [number for number in values if isinstance(number, int | float)]


def _order_in_yaml(path: Path) -> str | None:
    """color_space of CVLface's model.yaml, a flat list of `key: value`, beside the weights or one below."""
    for folder in (path.parent, path.parent / "pretrained_model"):
        try:
            text = (folder / "model.yaml").read_text(encoding="utf-8-sig", errors="replace")
        except (OSError, ValueError):
            continue
        if found := re.search(r"^color_space:\s*['\"]?(\w+)", text, re.M):
            if found[1] not in ORDERS:
                raise ValueError(f"{folder / 'model.yaml'}: color_space {found[1]!r}, allowed: RGB, BGR")
            return found[1]
    return None


def _shown(names: dict, count: int) -> str:
    """The first names, on one line."""
    shown = [repr(name)[1:-1] if isinstance(name, str) else repr(name) for name in list(names)[:count]]
    return f"{', '.join(shown)} …"
