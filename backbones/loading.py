"""Backbones in files: this project's own, and those of others, distinguished by their content.

weight_files.py reads a file, layouts.py finds the backbone in it; here it becomes a network.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import one_line
from utils.files import named_errors, whole_file
from utils.log_files import LOGGER_NAME
from utils.tensor_files import content_checksum, on_cpu, require_finite, write_tensors

from .backbone import Backbone
from .layouts import FORMAT, ORDERS, Layout, layout_of
from .lora import merged_state_dict
from .registry import MODELS, get_model
from .weight_files import read_weight_file, write_safetensors


def save_backbone(
    path: str | Path,
    backbone: nn.Module,
    *,
    network: str,
    num_features: int,
    network_args: Mapping | None = None,
    input_order: str | None = None,
) -> None:
    """Writes the backbone and what is needed to build it again; a partly written file never has this name.

    What low-rank adapters have learnt is in the weights (see lora.py).

    Args:
        path: a name that ends with .safetensors makes such a file, any other one that torch.save writes.
        backbone: bare, or inside DistributedDataParallel.
        network, num_features, network_args: what get_model() was given.
        input_order: "RGB" or "BGR", the order of the channels in training; None: the backbone's own.

    Raises:
        ValueError: an input order that is neither, or a weight that is not finite.
        OSError: a full disk, for example. After any error, an earlier file stays as it is.
    """
    backbone = getattr(backbone, "module", backbone)
    input_order = input_order or backbone.input_order
    if input_order not in ORDERS:
        raise ValueError(f"input_order is 'RGB' or 'BGR', got {input_order!r}")
    weights = {key: on_cpu(tensor) for key, tensor in merged_state_dict(backbone).items()}
    require_finite(weights, f"{path} is not written")
    settings = {
        "format": FORMAT,
        "network": network,
        "num_features": num_features,
        "network_args": dict(network_args or {}),
        "input_order": input_order,
    }
    checksum = content_checksum(weights, settings)
    with whole_file(path) as partial:
        if Path(path).suffix == ".safetensors":
            with named_errors(path):
                write_safetensors(partial, weights, settings | {"keys": list(weights), "crc32": checksum})
        else:
            write_tensors(partial, {**settings, "state_dict": weights, "crc32": checksum})


def load_backbone(
    path: str | Path,
    name: str | None = None,
    *,
    num_features: int | None = None,
    input_order: str | None = None,
) -> Backbone:
    """The backbone in a file, in evaluation mode on the CPU.

    It has `.network`, `.network_args`, `.num_features` and `.input_order` (RGB or BGR).

    Args:
        path: a file in one of the layouts of layouts.py, written by torch.save or as safetensors.
        name: the network; None: the one that a file of this project names, or that the keys and shapes fit.
            Names that differ only in training (vit_s, vit_s_dp005_mask_0) fit alike: the first is taken.
        num_features: what the file must have; None: any.
        input_order: "RGB" or "BGR", what the network was trained with; None: what the file tells. It has to
            be given for a bare state_dict of an ir_* network.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no backbone is in it, another network, num_features or input_order than asked for, or its
            input order is unknown.
    """
    path = Path(path)
    if input_order not in (None, *ORDERS):
        raise ValueError(f"input_order is 'RGB' or 'BGR', got {input_order!r}")
    content = read_weight_file(path)
    _compare_checksum(path, content)
    found = layout_of(path, content)
    if num_features not in (None, found.num_features):
        size = found.num_features
        raise ValueError(f"{path} holds embeddings of {size} numbers, not num_features={num_features}")
    if found.network is not None and name not in (None, found.network):
        raise ValueError(f"{path} holds network {found.network!r}, not {name!r}")
    name = name or found.network or _fitting_name(found)
    if name is None:
        raise ValueError(
            f"{path} holds {found.family.__name__} weights of other sizes than "
            f"{', '.join(_names(found.family))}: only a file of save_backbone() carries the settings of such "
            "a network"
        )
    backbone = _empty(path, name, found)
    weights = {key: _as(found.weights.get(key), like) for key, like in backbone.state_dict().items()}
    require_finite(weights, str(path))
    backbone.load_state_dict(weights, assign=True)
    backbone.network, backbone.network_args = name, found.network_args
    backbone.num_features = found.num_features
    backbone.input_order = _input_order(path, found, input_order)
    return backbone.eval()


def _input_order(path: Path, found: Layout, wanted: str | None) -> str:
    if found.network is not None and wanted not in (None, found.input_order):
        raise ValueError(f"{path} says that its network takes {found.input_order}, not {wanted}")
    if wanted is None and found.input_order is None:
        raise ValueError(
            f"{path} does not tell its colour order: AdaFace trained such networks on BGR, TFace, CVLface "
            "and others on RGB. Say which it is with --input-order RGB or BGR (in Python and in a config: "
            'input_order="RGB")'
        )
    return wanted or found.input_order


def _compare_checksum(path: Path, content: dict) -> None:
    """Raise ValueError where the checksum that a file of this project carries is not that of its content."""
    content = dict(content)
    if "crc32" not in content:
        own = isinstance(content.get("format"), str) and content["format"] == FORMAT
        level = logging.WARNING if own else logging.INFO  # the files of others
        logging.getLogger(LOGGER_NAME).log(level, "%s has no checksum: damage would go unnoticed", path)
        return
    try:
        equal = content.pop("crc32") == content_checksum(content.pop("state_dict"), content)
    except Exception:  # whatever stands there, it is not what was written
        equal = False
    if not equal:
        raise ValueError(
            f"{path} is no model file, or a damaged one (its checksum is another than when it was written: "
            "copy it again)"
        )


def _names(family: type[Backbone]) -> list[str]:
    return [name for name, (of, _) in MODELS.items() if of is family]


def _fitting_name(found: Layout) -> str | None:
    for name in _names(found.family):
        try:
            with torch.device("meta"):
                expected = get_model(name, num_features=found.num_features).state_dict()
        except RuntimeError:  # more features than a tensor can have
            return None
        if not misfits(expected, found.weights):
            return name
    return None


def _empty(path: Path, name: str, found: Layout) -> Backbone:
    """The network of that name, without numbers, whose keys and shapes are those of the file."""
    try:
        with torch.device("meta"):  # no initialisation: the tensors of the file become the parameters
            backbone = get_model(name, num_features=found.num_features, **found.network_args)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
    wrong = misfits(backbone.state_dict(), found.weights)
    if wrong:
        fitting = _fitting_name(found)
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        hint = f"; its weights fit {fitting!r}" if fitting else ""
        raise ValueError(f"{path} does not fit network {name!r}: {wrong[0]}{more}{hint}")
    return backbone


def misfits(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """What does not fit, key by key. Old files have no num_batches_tracked; no network here uses it."""
    missing = [
        f"{key} is missing"
        for key in expected
        if key not in weights and not key.endswith("num_batches_tracked")
    ]
    unknown = [f"{key!r} is unknown" for key in weights if key not in expected]
    sizes = [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    return sizes + missing + unknown


def _as(tensor: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype) if tensor is None else tensor.detach().to(like.dtype)
