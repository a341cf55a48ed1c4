"""Loads a config: configs/base.py, a job config over it, `key=value` over both; checked, then frozen.

A config file is code: loading it runs it, with all that its owner may do. Overrides are text and run nothing.

Five files work together, each on the one before:

    typed_values.py    one value and one annotation: does it fit, and how is it read from text?
    settings.py        the settings of configs/base.py: what each may be, what follows, what goes together
    foreign_configs.py what files of arcface_torch and ARoFace say, in our words
    frozen.py          the dict that cannot be changed, in which a loaded config is handed out
    config.py          finds and runs the file, puts the three layers over one another: `get_config`
"""

import json
import logging
import os
import runpy
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from configs import base
from utils import typed_values
from utils.errors import nearest
from utils.foreign_configs import is_foreign, translate
from utils.frozen import FrozenDict, to_builtin
from utils.log_files import LOGGER_NAME
from utils.run_info import ROOT
from utils.settings import DEFAULTS, KINDS, absolute, check_together, checked, derive, loss_of, unused


class FrozenConfig(FrozenDict):
    """All settings of a run. Printed as a table; `*` marks what differs from configs/base.py.

    `warnings`: what a user should know of them. `may_lack_sets`: verification sets that a file of another
    project names may be missing, as there.
    """

    warnings: tuple[str, ...] = ()
    may_lack_sets: bool = False

    def __str__(self) -> str:
        changed, width = changed_settings(self), max(map(len, self))
        lines = [f"config {self.name} (* differs from configs/base.py)"]
        for key, value in to_builtin(self).items():
            lines.append(f"{'*' if key in changed else ' '} {key:{width}}  {value}")
        return "\n".join(lines)


def changed_settings(config: Mapping) -> dict[str, Any]:
    """The settings of a loaded config, or of its config.json, that differ from configs/base.py."""
    defaults = DEFAULTS | {key: config.get(key) for key in ("name", "rec")}
    derive(defaults)
    defaults["rec"] = None
    return {key: value for key, value in to_builtin(config).items() if value != defaults.get(key)}


def get_config(name_or_path: str | os.PathLike, overrides: Iterable[str] = ()) -> FrozenConfig:
    """The config of that name (`NAME`, `configs/NAME`, with or without .py) or file, and the overrides.

    A file is Python, which is run, or the config.json of a run, which is read: the same run once more, in a
    folder of its own.

    Another `loss` or `network` among the overrides drops what the file sets for its own (base.BELONGS_TO),
    and `fp16` or `precision` what it says by the other (base.TWO_NAMES).

    Also fills in what base.py leaves to be derived: `name` (of the file), `output`, `val_root`, `loss`,
    `loss_args` (with the margin_list), `precision` and `fp16`; makes paths absolute, `val_targets` paths and
    `regularizers` pairs (name, hyper-parameters). Reads no data.

    Raises:
        FileNotFoundError: there is no such config; the message has the nearest name.
        ValueError: a setting is unknown, of a wrong type or range, without use here, or against another.
    """
    path = find_config(name_or_path)
    values = {key: checked(key, value) for key, value in DEFAULTS.items()}
    content, warnings = to_builtin(_run(path)), []
    name = content.pop("name", path.stem) if path.suffix == ".json" else path.stem
    foreign = is_foreign(content)
    if foreign:
        content, warnings = translate(content)
    may_lack_sets = foreign or path.suffix == ".json"  # as where the first run went on without one
    given = set(content)
    for key, value in content.items():
        try:
            values[key] = absolute(key, checked(key, value), ROOT)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    owners, overrides = tuple(f"{owner}=" for owner in base.BELONGS_TO), list(overrides)
    named = {text.partition("=")[0].strip() for text in overrides}
    for override in sorted(overrides, key=lambda text: not text.startswith(owners)):  # these first
        key, value = _parse(override, values)
        given.add(key)
        if key in base.TWO_NAMES and base.TWO_NAMES[key] not in named:
            values[base.TWO_NAMES[key]] = None
        may_lack_sets = may_lack_sets and key != "val_targets"
        if key in base.BELONGS_TO and value != (loss_of(values) if key == "loss" else values[key]):
            for other in base.BELONGS_TO[key]:
                values[other] = to_builtin(DEFAULTS[other])
        values[key] = absolute(key, checked(key, value), Path.cwd())
    for key, (off, substitute) in base.INSIGHTFACE_ONLY.items():
        if values.get(key, off) != off:
            raise ValueError(
                f"{key}={values[key]!r} has no use here, allowed is {off!r}; instead: {substitute}"
            )
    values = {"name": name} | {key: values[key] for key in KINDS}
    derive(values)
    check_together(values)
    cfg = FrozenConfig(values)
    vars(cfg).update(warnings=(*warnings, *unused(values, given)), may_lack_sets=may_lack_sets)
    return cfg


def find_config(name_or_path: str | os.PathLike) -> Path:
    """The file that a config's name or path means: in the current directory, then in the repository.

    Raises:
        FileNotFoundError: neither has it.
    """
    given = Path(name_or_path).expanduser()
    for folder in (Path.cwd(), ROOT, ROOT / "configs"):
        for candidate in (folder / given, folder / f"{given}.py"):
            if candidate.is_file():
                return candidate.resolve()
    presets = {file.stem for file in (ROOT / "configs").glob("*.py")} - {"base", "__init__"}
    near = nearest(given.stem, presets)
    raise FileNotFoundError(
        f"config {str(given)!r} does not exist{near} (there are: {', '.join(sorted(presets))})"
    )


def verification_files(cfg: FrozenConfig) -> dict[str, Path]:
    """The verification sets of a loaded config: name -> file.

    Where they may be missing (`FrozenConfig.may_lack_sets`), those that are get a warning.

    Raises:
        FileNotFoundError: one is missing; the message has the nearest name in its folder.
    """
    files = {Path(target).stem: Path(target) for target in cfg["val_targets"]}
    for name, file in files.items():
        if not file.is_file():
            near = nearest(name, [other.stem for other in file.parent.glob("*.bin")])
            missing = f"val_targets: {str(file)!r} does not exist{near}"
            if not cfg.may_lack_sets:
                raise FileNotFoundError(missing)
            logging.getLogger(LOGGER_NAME).info("warning: %s; it is left out", missing)
    return {name: file for name, file in files.items() if file.is_file()}


def _recorded(path: Path) -> dict[str, Any]:
    """The settings of the config.json of a run, with its name; its output folder becomes another one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        again = {"name": found["name"], "output": f"{found['output']}_again"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no config.json of a run ({type(error).__name__}: {error}); a config is a Python file"
        ) from None
    derived = found.get("loss_args", {})  # holds what the run has derived from these
    settings = {key: value for key, value in found.items() if key != "resume" and key not in derived}
    return settings | again


def _run(path: Path) -> Mapping:
    """The `config` that the file defines."""
    if path.suffix == ".json":
        return _recorded(path)
    is_preset, before = path.parent == ROOT / "configs", to_builtin(base.config)
    try:
        with nullcontext() if is_preset else _private_presets():
            # Under this name `from .base import config` means this repository's base, wherever the file lies.
            config = runpy.run_path(str(path), run_name=f"configs.{path.stem}").get("config")
    except Exception as error:
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or ["?"])[-1]
        raise ValueError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Mapping):
        raise ValueError(f"{path} defines no EasyDict named config")
    if to_builtin(base.config) != before:
        base.config.clear()
        base.config.update(before)
        raise ValueError(
            f"{path} changes the config of configs/base.py in place, and with it every later config: begin "
            "with config = deepcopy(config)"
        )
    return config


@contextmanager
def _private_presets() -> Iterator[None]:
    """While entered, an import from configs/ runs the file anew; afterwards the modules of before are back.

    Presets of this repository change a copy of what they import. Those of insightface change the imported
    config itself (`from configs.base import config`): they get one that nobody else sees.
    """
    kept = _take_out_presets()
    try:
        yield
    finally:
        _take_out_presets()
        sys.modules.update(kept)


def _take_out_presets() -> dict[str, ModuleType]:
    """Removes `configs` and its modules from those that are imported; returns them."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "configs"}


def _parse(override: str, values: dict) -> tuple[str, Any]:
    """`key=text` as the setting's name and its new value; `key.part=text` changes one part of a dict."""
    name, equals, text = override.partition("=")
    key, *parts = name.strip().split(".")
    if not equals:
        raise ValueError(f"override {override!r}: allowed is key=value{nearest(name, KINDS)}")
    kind = KINDS.get(key, Any)
    if len(parts) > typed_values.MAX_DEPTH:
        raise ValueError(f"override {name[:40]!r} … has more than {typed_values.MAX_DEPTH} parts")
    if not parts:
        return key, typed_values.read(text, kind)
    if key in KINDS and not typed_values.fits({}, kind):
        raise ValueError(f"{name}: {key} has no parts, it is {typed_values.describe(kind)}")
    value = inner = to_builtin(values.get(key)) or {}
    for part in parts[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{name}: {part}={inner!r} has no parts")
    inner[parts[-1]] = typed_values.read_literal(text)
    return key, value
