"""Weights files as dictionaries: what torch.save writes, and safetensors. Nothing in a file is executed.

`weights_only=True` reads tensors and plain values. A Lightning checkpoint also names classes of Lightning;
classes that do nothing take their place, and Lightning is not imported. Whole modules and TorchScript are
code and are refused.
"""

import json
import os
import zipfile
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

LIGHTNING = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "argparse.Namespace")
SETTINGS = "lqface"  # key of a safetensors file's metadata: the settings of save_backbone as JSON
NUM_SHOWN = 3  # names in a message


def read_weight_file(path: Path) -> dict:
    """The dictionary that a file holds; of a safetensors file "state_dict" and this project's settings.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, of another kind, or one that could run code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no model file {str(path)!r}")
    with open(path, "rb") as file:
        start = file.read(64)
    if start[8:9] == b"{":
        content = _read_safetensors(path)
    else:
        content = _read_torch(path, start)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no model file: it holds a {type(content).__name__}, not a state_dict")
    _check_memory(path, content)
    return content


def write_safetensors(path: Path, weights: dict[str, Tensor], settings: dict) -> None:
    """Tensors on the CPU, with the settings (plain values) as JSON in the metadata."""
    metadata = {"format": "pt", SETTINGS: json.dumps(settings)}  # "pt" is what transformers look for
    safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, path, metadata)
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # before it gets its name: a power cut may come


def _read_safetensors(path: Path) -> dict:
    try:
        with safetensors.safe_open(path, "pt") as file:
            keys = file.keys()
            weights = {key: file.get_tensor(key) for key in keys}
            settings = json.loads((file.metadata() or {}).get(SETTINGS, "{}"))
        order = settings.pop("keys", None)  # the file sorts them, the checksum needs theirs
        return {**settings, "state_dict": {key: weights[key] for key in order} if order else weights}
    except Exception as error:  # any bytes: of several libraries, with classes of their own
        raise ValueError(f"{path} is no model file, or a damaged one ({_first_line(error)})") from error


def _read_torch(path: Path, start: bytes):
    """What torch.save wrote; an older one is no zip archive: in these, weights_only refuses every class."""
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is no model file, but the pointer of Git LFS to it: run git lfs pull")
    if start.lstrip()[:1] == b"<":
        raise ValueError(f"{path} is no model file, but a web page: the download went wrong")
    classes = []
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _check_archive(path)
        classes = get_unsafe_globals_in_checkpoint(path) if is_archive else []
        with safe_globals([(_stand_in(name), name) for name in classes if name.startswith(LIGHTNING)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any bytes may be in the file, for which torch has no error class of its own
        forbidden = sorted(name for name in classes if not name.startswith(LIGHTNING))
        if forbidden:
            raise ValueError(_remedy(path, forbidden)) from error
        raise ValueError(f"{path} is no model file, or a damaged one ({_first_line(error)})") from error


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any("/code/" in m.filename or m.filename.endswith("/constants.pkl") for m in members):
        raise ValueError("TorchScript, which is code: ask its author for a state_dict")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):  # a bomb of zeros, perhaps
        raise ValueError("it is compressed, which torch.save never does")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its parts overlap")


def _check_memory(path: Path, content: dict) -> None:
    """Refuse tensors that repeat a few numbers: a copy would take memory that the file does not hold."""
    left = [("", content)]
    while left:
        name, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{name}.{key}" if name else str(key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            left += [(name, item) for item in value]
        elif isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta:
            held = value.untyped_storage().nbytes()
            if value.numel() * value.element_size() > held:
                raise ValueError(
                    f"{path}: {name} is {tuple(value.shape)}, of which the file holds {held} bytes"
                )


def _remedy(path: Path, forbidden: list[str]) -> str:
    names = ", ".join(forbidden[:NUM_SHOWN]) + (" …" if len(forbidden) > NUM_SHOWN else "")
    return (
        f"{path} names {names}, and to read that could run any code. If you trust the file, keep its tensors "
        f"only, where the code of these classes can be imported: "
        f"python -c \"import torch; m = torch.load({path.name!r}, 'cpu', weights_only=False); "
        "w = m.state_dict() if hasattr(m, 'state_dict') else m.get('state_dict', m); "
        "torch.save({k: v for k, v in w.items() if torch.is_tensor(v)}, 'tensors.pt')\""
    )


class _Inert:
    """Replaces a class of Lightning that a checkpoint names: takes any arguments and does nothing."""

    def __new__(cls, *_):
        return super().__new__(cls)


def _stand_in(name: str) -> type:
    # A dictionary of hyper-parameters is filled like any dictionary; no other class of Lightning is read.
    return dict if name.endswith(".AttributeDict") else _Inert


def _first_line(error: BaseException) -> str:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    # The rest of torch's text recommends loading without the check.
    return "not what torch.save writes" if reason.startswith("Weights only load failed") else reason
