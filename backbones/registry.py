"""The names of the networks, and what each builds.

The names are insightface's (arcface_torch) and AdaFace's, and so are their state_dict keys and shapes. Names
that differ only in `dp` and `mask` (vit_s, vit_s_dp005_mask_0) are one network, trained with another drop
path rate (dp005: 0.05, else 0.1) or another share of masked tokens (mask_005: 0.05, mask_0: none, else 0.1).
"""

from utils.errors import check_arguments, nearest

from .adaface_ir import AdaFaceIR
from .backbone import Backbone, check_counts
from .iresnet import IResNet
from .mobilefacenet import MobileFaceNet
from .vit import VisionTransformer

MODELS: dict[str, tuple[type[Backbone], dict]] = {
    "r18": (IResNet, {"blocks": (2, 2, 2, 2)}),
    "r34": (IResNet, {"blocks": (3, 4, 6, 3)}),
    "r50": (IResNet, {"blocks": (3, 4, 14, 3)}),
    "r100": (IResNet, {"blocks": (3, 13, 30, 3)}),
    "r200": (IResNet, {"blocks": (6, 26, 60, 6)}),
    "r2060": (IResNet, {"blocks": (3, 128, 896, 3)}),  # fits a GPU only with grad_checkpointing
    "mbf": (MobileFaceNet, {"blocks": (1, 4, 6, 2), "scale": 2}),
    "mbf_large": (MobileFaceNet, {"blocks": (2, 8, 12, 4), "scale": 4}),
    "vit_t": (VisionTransformer, {"width": 256, "depth": 12}),
    "vit_t_dp005_mask0": (
        VisionTransformer,
        {"width": 256, "depth": 12, "drop_path_rate": 0.05, "mask_ratio": 0.0},
    ),
    "vit_s": (VisionTransformer, {"width": 512, "depth": 12}),
    "vit_s_dp005_mask_0": (
        VisionTransformer,
        {"width": 512, "depth": 12, "drop_path_rate": 0.05, "mask_ratio": 0.0},
    ),
    "vit_b": (VisionTransformer, {"width": 512, "depth": 24}),
    "vit_b_dp005_mask_005": (
        VisionTransformer,
        {"width": 512, "depth": 24, "drop_path_rate": 0.05, "mask_ratio": 0.05},
    ),
    "vit_l_dp005_mask_005": (
        VisionTransformer,
        {"width": 768, "depth": 24, "drop_path_rate": 0.05, "mask_ratio": 0.05},
    ),
    "vit_h": (VisionTransformer, {"width": 1024, "depth": 48, "mask_ratio": 0.0}),
    "ir_18": (AdaFaceIR, {"blocks": (2, 2, 2, 2)}),
    "ir_34": (AdaFaceIR, {"blocks": (3, 4, 6, 3)}),
    "ir_50": (AdaFaceIR, {"blocks": (3, 4, 14, 3)}),
    "ir_101": (AdaFaceIR, {"blocks": (3, 13, 30, 3)}),
    "ir_152": (AdaFaceIR, {"blocks": (3, 8, 36, 3), "bottleneck": True}),
    "ir_200": (AdaFaceIR, {"blocks": (3, 24, 36, 3), "bottleneck": True}),
    "ir_se_50": (AdaFaceIR, {"blocks": (3, 4, 14, 3), "squeeze": True}),
    "ir_se_101": (AdaFaceIR, {"blocks": (3, 13, 30, 3), "squeeze": True}),
    "ir_se_152": (AdaFaceIR, {"blocks": (3, 8, 36, 3), "bottleneck": True, "squeeze": True}),
    "ir_se_200": (AdaFaceIR, {"blocks": (3, 24, 36, 3), "bottleneck": True, "squeeze": True}),
}

MODEL_NAMES = tuple(MODELS)


def get_model(
    name: str,
    *,
    num_features: int = 512,
    dropout: float = 0.0,
    fp16: bool = False,
    grad_checkpointing: bool = False,
    **settings,
) -> Backbone:
    """A freshly initialised network, in training mode, with `network`, `network_args`, `num_features`.

    It maps float images `(N, 3, 112, 112)` in [-1, 1] to float32 embeddings `(N, num_features)`, which are
    not normalised.

    Args:
        name: one of MODEL_NAMES.
        num_features: numbers in an embedding.
        dropout: share of the inputs of the last linear layers that training sets to 0.
        fp16: float16 autocast for the trunk, on the device of the images. Without it an outer
            `torch.autocast` decides.
        grad_checkpointing: recompute each block in the backward pass instead of storing its activations.
        **settings: settings of the family that replace those of the name: blocks (all but ViT), scale
            (MobileFaceNet), bottleneck, squeeze (AdaFaceIR), width, depth, num_heads, drop_path_rate,
            mask_ratio (ViT).

    Raises:
        ValueError: unknown name or setting, a value that the setting does not allow, or a package that the
            network needs is not installed.
    """
    if name not in MODELS:
        raise ValueError(
            f"unknown network {name!r} (there are {', '.join(MODEL_NAMES)}){nearest(name, MODEL_NAMES)}"
        )
    if not MODELS[name][0].is_available():
        package = MODELS[name][0].package
        raise ValueError(f"network {name!r} needs the package {package}, which is not installed")
    check_counts("num_features", [num_features], length=1)
    family, named_settings = MODELS[name]
    check_arguments(f"network {name!r}", family, settings, hidden=("num_features", "dropout"))
    backbone = family(
        **{**named_settings, **settings},
        num_features=num_features,
        dropout=dropout,
        fp16=fp16,
        grad_checkpointing=grad_checkpointing,
    )
    backbone.network, backbone.network_args, backbone.num_features = name, settings, num_features
    return backbone
