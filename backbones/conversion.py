"""The weights of a network in the files of other projects, whose colour order is part of the layout."""

from pathlib import Path

from torch import Tensor, nn

from utils.files import whole_file
from utils.tensor_files import on_cpu, require_finite, write_tensors

from .adaface_ir import AdaFaceIR
from .backbone import Backbone
from .loading import save_backbone

# Name -> the colour order in which the project's code feeds the network.
ORDERS = {"lqface": None, "insightface": "RGB", "adaface": "BGR"}


def layouts_of(backbone: Backbone) -> list[str]:
    """The layouts whose projects have this network."""
    return ["lqface", "adaface" if isinstance(backbone, AdaFaceIR) else "insightface"]


def turned(backbone: Backbone, input_order: str) -> dict[str, Tensor]:
    """The state_dict of the network that does the same with images in `input_order`, "RGB" or "BGR".

    The first convolution sees the channels in turn: its kernels for them change places.
    """
    weights = {key: on_cpu(tensor) for key, tensor in backbone.state_dict().items()}
    if input_order != backbone.input_order:
        convolutions = ((key, part) for key, part in backbone.named_modules() if isinstance(part, nn.Conv2d))
        first, _ = next(convolutions)
        weights[f"{first}.weight"] = weights[f"{first}.weight"].flip(1)
    return weights


def write_layout(path: Path, backbone: Backbone, layout: str) -> None:
    """Write the weights for a project: its keys, its file, its colour order.

    lqface: as `save_backbone` does. insightface: a bare state_dict. adaface: a "state_dict" whose keys begin
    with "model.", as Lightning writes it.

    Raises:
        ValueError: a layout whose project does not have this network.
        OSError: the file cannot be written.
    """
    if layout not in (allowed := layouts_of(backbone)):
        raise ValueError(f"{layout} does not have {backbone.network}; allowed for it: {', '.join(allowed)}")
    if layout == "lqface":
        names = {"network": backbone.network, "num_features": backbone.num_features}
        save_backbone(path, backbone, **names, network_args=backbone.network_args)
        return
    weights = turned(backbone, ORDERS[layout])
    require_finite(weights, f"{path} is not written")
    if layout == "adaface":
        weights = {"state_dict": {f"model.{key}": tensor for key, tensor in weights.items()}}
    with whole_file(path) as partial:
        write_tensors(partial, weights)
