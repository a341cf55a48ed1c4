"""What the settings of configs/base.py may be, what follows from them, and what does not go together.

utils/config.py calls it: `checked` and `absolute` for each value, then `derive`, then `check_together`.
"""

import os
from pathlib import Path
from typing import Any

from configs import base
from utils import typed_values
from utils.errors import nearest
from utils.frozen import to_builtin
from utils.precision import channels_last_is_faster, fast_precision
from utils.run_info import ROOT

KINDS = base.Settings.__annotations__
DEFAULTS = to_builtin(base.config)  # a copy: a config file may change base.config
PATH_SETTINGS = ("output", "rec", "val_targets", "val_root", "pretrained", "teacher", "init_head")
DATA_FILES = (".rec", ".idx", ".tar", ".parquet", ".lmdb")  # what rec may be, beside a folder
INIT_HEADS = ("random", "class_means")
WORDS = {"init_head": INIT_HEADS, "teacher": ("pretrained",)}  # values of path settings that are no path


def checked(key: str, value: Any) -> Any:
    """The value as its setting's type."""
    if key in base.INSIGHTFACE_ONLY or key in base.WANDB_ONLY:
        return value
    if key not in KINDS:
        raise ValueError(f"unknown setting {key!r}{nearest(key, KINDS)}")
    if key == "warmup_epoch" and value == -1:
        return 0.0  # what insightface's -1 means
    try:
        return to_builtin(typed_values.convert(value, KINDS[key]))
    except typed_values.Mismatch:
        near = nearest(value, typed_values.choices(KINDS[key]))
        raise ValueError(f"{key}={value!r}: allowed is {typed_values.describe(KINDS[key])}{near}") from None


def absolute(key: str, value: Any, folder: Path) -> Any:
    """The path or paths of a setting that holds such, seen from `folder`; other values as they are."""
    if isinstance(value, list) and key in PATH_SETTINGS:
        return [absolute(key, item, folder) for item in value]
    is_name = (key == "rec" and value == "synthetic") or (
        key == "val_targets" and not _is_file_path(value) and not _is_set(folder / value)
    )
    is_name = is_name or value in WORDS.get(key, ())
    if key not in PATH_SETTINGS or value is None or is_name:
        return value
    return os.path.abspath(folder / Path(value).expanduser())


def _is_set(file: Path) -> bool:
    return file.suffix == ".bin" and file.is_file()


def _is_file_path(val_target: str) -> bool:
    return os.sep in val_target


def derive(values: dict) -> None:
    """Replace, in place, each None that stands for what follows from other settings."""
    values["output"] = values["output"] or str(ROOT / "work_dirs" / values["name"])
    values["regularizers"] = [_name_and_hyper(term) for term in values["regularizers"]]
    _derive_precision(values)
    _derive_validation(values)
    _derive_teacher(values)
    _derive_loss(values)


def _derive_precision(values: dict) -> None:
    both = None not in (values["fp16"], values["precision"])
    if both and values["fp16"] != (values["precision"] == "fp16"):
        given = f"fp16={values['fp16']} and precision={values['precision']!r}"
        raise ValueError(f"{given} contradict each other: leave one out")
    values["precision"] = values["precision"] or ("fp16" if values["fp16"] else "fp32")
    for key in ("precision", "head_precision"):
        if values[key] == "auto":
            values[key] = fast_precision()
    if values["channels_last"] == "auto":
        values["channels_last"] = channels_last_is_faster(values["network"], values["precision"])
    values["fp16"] = values["precision"] == "fp16"


def _derive_validation(values: dict) -> None:
    if values["val_root"] is None and values["rec"] and values["rec"] != "synthetic":
        root = values["rec"] if isinstance(values["rec"], str) else values["rec"][0]
        is_file = root.endswith(DATA_FILES) and not os.path.isdir(root)
        values["val_root"] = os.path.dirname(root) if is_file else root
    if values["val_root"]:
        is_path, root = _is_file_path, Path(values["val_root"])
        values["val_targets"] = [
            t if is_path(t) else str(root / f"{t.removesuffix('.bin')}.bin") for t in values["val_targets"]
        ]


def _derive_teacher(values: dict) -> None:
    if values["teacher"] == "pretrained":
        if values["pretrained"] is None:
            raise ValueError("teacher='pretrained', but pretrained is not set")
        values["teacher"] = values["pretrained"]
        order = values["distillation"].get("input_order", values["input_order"])
        values["distillation"] = values["distillation"] | ({"input_order": order} if order else {})


def _derive_loss(values: dict) -> None:
    margin_settings = ("margin_list", "interclass_filtering_threshold")
    margins = {key: values[key] for key in margin_settings if values[key]}
    for key in margins.keys() & values["loss_args"].keys():
        raise ValueError(f"{key} and loss_args.{key} are both given: leave one out")
    if values["loss"] is None and values["margin_list"]:
        margins |= {"gradient": "straight_through"}
        if values["interclass_filtering_threshold"]:
            margins |= {"interclass_filtering": "zero"}
    if values["sample_rate"] < 1:
        is_foreign = values["loss"] is None and values["margin_list"]
        values["sampled_update"] = values["sampled_update"] or ("dense" if is_foreign else "sparse")
    elif values["sampled_update"]:
        given = f"sampled_update={values['sampled_update']!r}"
        raise ValueError(f"{given} counts only with sample_rate < 1: allowed is sampled_update=None")
    values["loss"] = loss_of(values)
    if values["loss"] == "combined":
        values["loss_args"] = margins | values["loss_args"]


def loss_of(values: dict) -> str:
    """The name of the loss; where `loss` is None, margin_list decides."""
    return values["loss"] or ("combined" if values["margin_list"] else "arcface")


def _name_and_hyper(term: str | dict | tuple[str, dict]) -> tuple[str, dict]:
    if isinstance(term, str):
        return term, {}
    if not isinstance(term, dict):
        return tuple(term)
    if "name" not in term:
        raise ValueError(f"regularizers: {term!r} has no 'name'")
    return term["name"], {key: value for key, value in term.items() if key != "name"}


def check_together(values: dict) -> None:
    """Raise ValueError where settings that are right on their own do not go together."""
    for argument in values["network_args"].keys() & base.NETWORK_SETTINGS.keys():
        setting = base.NETWORK_SETTINGS[argument]
        raise ValueError(f"network_args.{argument} is no argument of the network here: set {setting}")
    _check_data(values)
    for key in ("sync_bn", "grad_checkpointing"):
        if values["compile"] and values[key]:
            raise ValueError(f"compile=True cannot compile a network with {key}=True: leave one out")
    for key, other in (("compile", True), ("sync_bn", True), ("channels_last", False)):
        if values["backbone_kernels"] is True and values[key] == other:
            raise ValueError(f"backbone_kernels=True would be ignored with {key}={other}: leave one out")
    if values["resume"] == "auto" and not values["save_all_states"]:
        raise ValueError(
            "resume='auto' would always start anew, as save_all_states=False keeps no checkpoint: it is "
            "allowed with save_all_states=true"
        )
    for key, (other, needed) in base.USED_WITH.items():
        if values[other] != needed and values[key] != DEFAULTS[key]:
            raise ValueError(
                f"{key}={values[key]!r} would be ignored: it counts only with {other}={needed!r}, not with "
                f"{values[other]!r}; allowed is its default {DEFAULTS[key]!r}"
            )
    for key, allowed in base.WITH_FUSED_UPDATE.items() if values["head_update"] == "fused" else ():
        if values[key] not in allowed:
            given, words = f"{key}={values[key]!r}", " or ".join(map(repr, allowed))
            raise ValueError(f"{given} does not go with head_update='fused': allowed is {words}")
    _check_fine_tuning(values)
    if values["global_batch"] and values["global_batch"] % values["gradient_acc"]:
        raise ValueError(
            f"global_batch={values['global_batch']}: allowed is a multiple of "
            f"gradient_acc={values['gradient_acc']}"
        )
    if values["num_steps"] is None and values["warmup_epoch"] > values["num_epoch"]:
        raise ValueError(
            f"warmup_epoch={values['warmup_epoch']}: allowed is up to num_epoch={values['num_epoch']}"
        )
    _check_aroface(values)
    if sorted(set(values["milestones"])) != values["milestones"]:
        raise ValueError(f"milestones={values['milestones']}: allowed are rising epochs")


def _check_data(values: dict) -> None:
    if not values["rec"]:
        raise ValueError(
            "rec is not set: allowed is a folder of training data, a list of them, or 'synthetic'"
        )
    if values["rec"] == "synthetic":
        for key in ("num_classes", "num_image"):
            if values[key] is None:
                raise ValueError(f"rec='synthetic' needs {key}: there is no data to count")
    stems = [Path(target).stem for target in values["val_targets"]]
    for target in values["val_targets"]:
        if not _is_file_path(target):
            raise ValueError(
                f"val_targets: {target!r}: rec='synthetic' has no folder to look in: give val_root"
            )
        if stems.count(Path(target).stem) > 1:
            raise ValueError(
                f"val_targets: {Path(target).stem!r} is there twice, results are known by that name"
            )


def _check_aroface(values: dict) -> None:
    """A batch in which the share to be warped comes to no image."""
    if values["aroface"] is None:
        return
    ratio = values["aroface"].get("ratio", 0.75)
    images = values["global_batch"] and values["global_batch"] // values["gradient_acc"]
    images = images or values["batch_size"]
    if isinstance(ratio, int | float) and ratio < 1 and round((1 - ratio) * images) == 0:
        raise ValueError(
            f"aroface would be ignored: of {images} images at ratio={ratio} none is warped; it needs a "
            "larger batch_size, or a smaller ratio (the share that stays clean)"
        )


def unused(values: dict, given: set[str]) -> list[str]:
    """A sentence for each setting that somebody gave and that decides nothing beside the others.

    Errors are for what nobody can have meant; these come about where a preset is cut short.
    """
    told = []
    if values["num_steps"] is not None and {"num_steps", "num_epoch"} <= given:
        told.append(f"num_steps={values['num_steps']} decides, not num_epoch={values['num_epoch']}")
    if "verbose" in given and values["verbose"] and not values["val_targets"]:
        told.append(f"verbose={values['verbose']} has no val_targets to verify on")
    late = [epoch for epoch in values["milestones"] if epoch >= values["num_epoch"]]
    if values["scheduler"] == "multistep" and values["num_steps"] is None and late:
        told.append(f"milestones {late} are not reached in num_epoch={values['num_epoch']}")
    return told


def _check_fine_tuning(values: dict) -> None:
    for key, other in base.NEEDS.items():
        if values[key] != DEFAULTS[key] and not values[other]:
            raise ValueError(
                f"{key}={values[key]!r} would be ignored or senseless: it counts only with {other}"
            )
    parts = [pattern for pattern in values["freeze"] if pattern != "head"]
    head_stays, start = len(parts) < len(values["freeze"]), values["init_head"]
    if parts and not values["pretrained"]:
        raise ValueError(f"freeze={parts} would keep random weights: it counts only with pretrained")
    if head_stays and start == "random":
        raise ValueError("freeze=['head'] would keep random class centres: it counts only with init_head")
    if head_stays and values["head_update"] == "fused":
        raise ValueError("head_update='fused' would be ignored: freeze=['head'] keeps the class centres")
    if head_stays and values["head_warmup_epoch"]:
        raise ValueError(
            "head_warmup_epoch lets the class centres learn alone, but freeze=['head'] keeps them"
        )
    if start == "class_means" and not (values["pretrained"] or values["teacher"]):
        raise ValueError(
            "init_head='class_means' needs trained features: it counts only with pretrained or teacher"
        )
    if values["sync_bn"] and (values["freeze_bn"] or values["lora"] is not None):
        raise ValueError("sync_bn=True would be ignored: freeze_bn and lora keep the statistics of BatchNorm")
    if values["patience"] and not values["verbose"]:
        raise ValueError(
            f"patience={values['patience']} counts verifications on the way: it needs verbose > 0"
        )
