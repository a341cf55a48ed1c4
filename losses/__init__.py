"""Losses and regularisers by name."""

from torch import nn

from losses.adaface import AdaFace, MagFace
from losses.aroface import AlignmentPerturbation
from losses.base import MarginLoss, Regularizer
from losses.binary import SphereFace2, UniFace
from losses.center import Center, DiscFace
from losses.circle import Circle
from losses.distillation import Distillation
from losses.elastic import ElasticFace
from losses.margin import AMSoftmax, ArcFace, CombinedMargin, CosFace, NormFace, Softmax, SphereFace
from losses.mining import CurricularFace, MVSoftmax, NPCFace
from losses.ndr import NDR
from utils.errors import check_arguments, nearest

__all__ = [
    "LOSSES",
    "REGULARIZERS",
    "MarginLoss",
    "Regularizer",
    "build_distillation",
    "build_loss",
    "build_perturbation",
    "build_regularizer",
]

LOSSES: dict[str, type[MarginLoss]] = {
    "softmax": Softmax,
    "normface": NormFace,
    "sphereface": SphereFace,
    "cosface": CosFace,
    "amsoftmax": AMSoftmax,
    "arcface": ArcFace,
    "combined": CombinedMargin,
    "mv_softmax": MVSoftmax,
    "curricularface": CurricularFace,
    "npcface": NPCFace,
    "circle": Circle,
    "adaface": AdaFace,
    "magface": MagFace,
    "elasticface": ElasticFace,
    "uniface": UniFace,
    "sphereface2": SphereFace2,
}

REGULARIZERS: dict[str, type[Regularizer]] = {"ndr": NDR, "disc": DiscFace, "center": Center}


def build_loss(name: str, **hyper) -> MarginLoss:
    """The loss of that name with its paper's defaults, but for `hyper`.

    Raises:
        ValueError: unknown name or hyper-parameter (names the nearest), or a value of the wrong type or out
            of its range.
    """
    return _build("loss", LOSSES, name, hyper)


def build_regularizer(name: str, **hyper) -> Regularizer:
    """The regulariser of that name with its paper's defaults, but for `hyper`; raises as `build_loss`."""
    return _build("regularizer", REGULARIZERS, name, hyper)


def build_perturbation(**hyper) -> AlignmentPerturbation:
    """ARoFace, with its paper's defaults, but for `hyper`; raises as `build_loss`."""
    return _build("perturbation", {"aroface": AlignmentPerturbation}, "aroface", hyper)


def build_distillation(teacher: nn.Module | None, student_order: str, **hyper) -> Distillation:
    """Distillation into a student that sees colours in this order; raises as `build_loss`."""
    check_arguments("distillation", Distillation, hyper, hidden=["teacher", "student_order"])
    try:
        return Distillation(teacher, student_order, **hyper)
    except ValueError as error:
        raise ValueError(f"distillation: {error}") from None


def _build(kind: str, registry: dict, name: str, hyper: dict):
    if name not in registry:
        known = ", ".join(registry) or "none yet"
        raise ValueError(f"unknown {kind} {name!r}{nearest(name, registry)} (known: {known})")
    check_arguments(f"{kind} {name!r}", registry[name], hyper)
    try:
        return registry[name](**hyper)
    except ValueError as error:
        raise ValueError(f"{kind} {name!r}: {error}") from None
