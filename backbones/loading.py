"""Backbones in files: this project's own, arcface_torch's and AdaFace's, distinguished by their content.

Nothing in a file is ever executed: `weights_only=True` reads tensors and plain values. A Lightning checkpoint
also names classes of Lightning; classes that do nothing take their place, and Lightning is not imported.
"""

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from utils.files import whole_file
from utils.log_files import LOGGER_NAME
from utils.tensor_files import content_checksum, on_cpu, require_finite, write_tensors

from .adaface_ir import AdaFaceIR
from .backbone import Backbone
from .registry import MODELS, get_model

FORMAT = "lqface"
LIGHTNING = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "argparse.Namespace")


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

    Args:
        backbone: bare, or inside DistributedDataParallel.
        network, num_features, network_args: what get_model() was given.
        input_order: "RGB" or "BGR", the order of the channels in training; None: the backbone's own.

    Raises:
        ValueError: an input order that is neither, or a weight that is not finite.
        OSError: a full disk, for example. After any error, an earlier file stays as it is.
    """
    backbone = getattr(backbone, "module", backbone)
    input_order = input_order or backbone.input_order
    if input_order not in ("RGB", "BGR"):
        raise ValueError(f"input_order is 'RGB' or 'BGR', got {input_order!r}")
    weights = {key: on_cpu(tensor) for key, tensor in backbone.state_dict().items()}
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
        write_tensors(partial, {**settings, "state_dict": weights, "crc32": checksum})


def load_backbone(path: str | Path, name: str | None = None, *, num_features: int | None = None) -> Backbone:
    """The backbone in a file, in evaluation mode on the CPU, with `.network` and `.input_order` (RGB or BGR).

    Args:
        path: a file of save_backbone(), a bare state_dict of arcface_torch (keys may begin with "module."),
            or a Lightning checkpoint of AdaFace (of its "state_dict" the "model." keys, without the head).
        name: the network; None: the one that a file of this project names, or that the keys and shapes fit.
            Names that differ only in training (vit_s, vit_s_dp005_mask_0) fit alike: the first is taken.
        num_features: what the file must have; None: any.

    AdaFace's networks take BGR unless a file of this project says otherwise; all others take RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no backbone is in it, or another network or num_features than asked for.
    """
    path = Path(path)
    content = _read(path)
    weights = _weights(path, content)
    family = _family(path, weights)
    found = weights[family.embedding_weight].shape[0]
    if num_features not in (None, found):
        raise ValueError(f"{path} holds embeddings of {found} numbers, not num_features={num_features}")

    network_args, input_order = {}, "BGR" if family is AdaFaceIR else "RGB"
    if content.get("format") == FORMAT:
        if name not in (None, content["network"]):
            raise ValueError(f"{path} holds network {content['network']!r}, not {name!r}")
        name, network_args, input_order = content["network"], content["network_args"], content["input_order"]
    elif name is None:
        name = _fitting_name(family, weights)
        if name is None:
            raise ValueError(
                f"{path} holds {family.__name__} weights of other sizes than {', '.join(_names(family))}: "
                "only a file of save_backbone() carries the settings of such a network"
            )

    with torch.device("meta"):  # no initialisation: the tensors of the file become the parameters
        backbone = get_model(name, num_features=found, **network_args)
    _check_fit(path, name, family, backbone.state_dict(), weights)
    backbone.load_state_dict(
        {key: _as(weights.get(key), like) for key, like in backbone.state_dict().items()}, assign=True
    )
    backbone.network, backbone.input_order = name, input_order
    return backbone.eval()


class _Inert:
    """Replaces a class of Lightning that a checkpoint names: takes any arguments and does nothing."""

    def __new__(cls, *_):
        return super().__new__(cls)


def _stand_in(name: str) -> type:
    # A dictionary of hyper-parameters is filled like any dictionary; no other class of Lightning is read.
    return dict if name.endswith(".AttributeDict") else _Inert


def _read(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"no model file {str(path)!r}")
    classes = []
    try:
        # Files from before PyTorch 1.6 are no zip archives; in these, weights_only=True refuses every class.
        classes = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        with safe_globals([(_stand_in(name), name) for name in classes if name.startswith(LIGHTNING)]):
            content = torch.load(path, map_location="cpu", weights_only=True)
            _compare_checksum(path, content)
    except Exception as error:  # the file may hold any bytes, for which torch has no error class of its own
        if forbidden := sorted(name for name in classes if not name.startswith(LIGHTNING)):
            load = f"torch.load('{path.name}', weights_only=False)"
            raise ValueError(
                f"{path} names {', '.join(forbidden)}, and to read that could run any code. "
                f'If you trust the file, keep its tensors only: python -c "import torch; '
                f"torch.save({{'state_dict': {load}['state_dict']}}, 'tensors.pt')\""
            ) from error
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if reason.startswith("Weights only load failed"):  # the rest recommends loading without the check
            reason = "not what torch.save writes"
        raise ValueError(f"{path} is no model file, or a damaged one ({reason})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no model file: it holds a {type(content).__name__}, not a state_dict")
    return content


def _compare_checksum(path: Path, content) -> None:
    """Raise ValueError where the checksum that a file of this project carries is not that of its content."""
    content = dict(content) if isinstance(content, dict) else {}
    if "crc32" in content:
        if content.pop("crc32") != content_checksum(content.pop("state_dict"), content):
            raise ValueError("its checksum is another than when it was written: copy it again")
    else:
        level = logging.WARNING if content.get("format") == FORMAT else logging.INFO  # the files of others
        logging.getLogger(LOGGER_NAME).log(level, "%s has no checksum: damage would go unnoticed", path)


def _weights(path: Path, content: dict) -> dict[str, Tensor]:
    weights = content.get("state_dict", content)
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ValueError(f"{path} holds no state_dict, but {', '.join(map(str, list(content)[:5]))} …")
    # Lightning calls the network "model" (beside the head), DistributedDataParallel calls it "module".
    for prefix in ("model.", "module."):
        weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)} or weights
    return weights


def _family(path: Path, weights: dict[str, Tensor]) -> type[Backbone]:
    families = dict.fromkeys(family for family, _ in MODELS.values())
    for family in families:
        if family.embedding_weight in weights:
            return family
    wanted = ", ".join(f"{family.embedding_weight} ({family.__name__})" for family in families)
    raise ValueError(
        f"{path} holds no known backbone: it has none of {wanted}, but {', '.join(list(weights)[:3])} …"
    )


def _names(family: type[Backbone]) -> list[str]:
    return [name for name, (of, _) in MODELS.items() if of is family]


def _fitting_name(family: type[Backbone], weights: dict[str, Tensor]) -> str | None:
    num_features = weights[family.embedding_weight].shape[0]
    for name in _names(family):
        with torch.device("meta"):
            expected = get_model(name, num_features=num_features).state_dict()
        if not _misfits(expected, weights):
            return name
    return None


def _misfits(expected: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """What does not fit, key by key. Old files have no num_batches_tracked; no network here uses it."""
    missing = [
        f"{key} is missing"
        for key in expected
        if key not in weights and not key.endswith("num_batches_tracked")
    ]
    unknown = [f"{key} is unknown" for key in weights if key not in expected]
    sizes = [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    return sizes + missing + unknown


def _check_fit(
    path: Path, name: str, family: type[Backbone], expected: dict[str, Tensor], weights: dict[str, Tensor]
) -> None:
    misfits = _misfits(expected, weights)
    if misfits:
        fitting = _fitting_name(family, weights)
        more = f" and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        hint = f"; its weights fit {fitting!r}" if fitting else ""
        raise ValueError(f"{path} does not fit network {name!r}: {misfits[0]}{more}{hint}")


def _as(tensor: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype) if tensor is None else tensor.to(like.dtype)
