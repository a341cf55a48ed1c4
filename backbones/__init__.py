"""The networks: `get_model(name)` builds one, `save_backbone` and `load_backbone` write and read its file.

BatchNorm with what stands beside it goes through `batch_norm.py`, and in training through the GPU kernels of
`kernels/` where `choose_kernels` turns them on.
"""

from .backbone import Backbone, FrozenBatchStatistics
from .compiled import CompiledBackbone
from .kernels.choice import choose_kernels
from .loading import load_backbone, save_backbone
from .pretrained import build_backbone, load_teacher
from .registry import MODEL_NAMES, get_model

__all__ = [
    "MODEL_NAMES",
    "Backbone",
    "CompiledBackbone",
    "FrozenBatchStatistics",
    "build_backbone",
    "choose_kernels",
    "get_model",
    "load_backbone",
    "load_teacher",
    "save_backbone",
]
