"""Config files of arcface_torch and ARoFace: what they say in words of their own, in ours.

docs/migrating.md has every key of theirs, and what keeps another meaning.
"""

from collections.abc import Mapping
from typing import Any

AROFACE = ("ratio", "eta_scale", "eta_theta", "eta_t")
# How the original mixes and warps, so that its configs train as they did there.
AS_PUBLISHED = {"mixing": "independent", "exact_identity": False}


def is_foreign(given: Mapping[str, Any]) -> bool:
    """Whether a file with these settings was written for arcface_torch or its children.

    They know one loss and never name it; a config of this project that has a margin_list names its loss.
    """
    return "margin_list" in given and "loss" not in given


def translate(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings in our words, and what to tell of it."""
    ours, told = dict(given), []
    hyper = {key: ours.pop(key) for key in AROFACE if key in ours}
    if hyper:
        ours["aroface"] = hyper | AS_PUBLISHED
    if (num_gpus := ours.pop("ngpus", None)) and "lr" in ours and "batch_size" in ours:
        # Its line lr = (0.1 * batch_size * ngpus) / 1024: the rate for 1,024 images a step.
        ours["lr"] = ours["lr"] * 1024 / (ours["batch_size"] * num_gpus)
        ours["lr_reference_batch"] = 1024
        told.append(
            f"ngpus={num_gpus} becomes lr={ours['lr']:g} lr_reference_batch=1024: the rate follows the ranks"
        )
    if ours.pop("dali", False) | bool(ours.get("dali_aug")):
        changes = "low resolution, blur, colour and grey; near it: low_res_prob=0.2 photometric_prob=0.2"
        lost = f", without the augmentations of dali_aug ({changes})" if ours.pop("dali_aug", False) else ""
        told.append(f"dali: the loader of this project takes its place{lost}")
    return ours, told
