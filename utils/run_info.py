"""What a run was: its config, code, software and hardware, written beside its results."""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from utils.files import write_json
from utils.frozen import to_builtin

ROOT = Path(__file__).resolve().parents[1]
# The files whose change may change a step: not the configs, whose settings are compared one by one.
FOLDERS = ("backbones", "classifier", "eval", "loading", "losses", "ranks", "training", "utils")
CODE = ("*.py", *(f"{folder}/**/*.py" for folder in FOLDERS))
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "scipy", "scikit-learn")


def write_run_info(
    folder: str | os.PathLike, cfg: Mapping, *, keep_earlier: bool = False, **derived: Any
) -> None:
    """Writes config.json (every setting) and run.json (git, versions, hardware, command, `derived`) there.

    Args:
        keep_earlier: those of the part of the run before become config.0001.json and run.0001.json, of the
            next part 0002, and so on.
        derived: numbers that follow from config, data and ranks, such as the global batch or the class count.
    """
    folder = Path(folder)
    run = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "git": git_state(),
        "versions": versions(),
        "hardware": hardware(),
    }
    if keep_earlier:
        numbers = [int(file.name.split(".")[1]) for file in folder.glob("*.[0-9][0-9][0-9][0-9].json")]
        for name in ("config", "run"):
            if (folder / f"{name}.json").exists():
                (folder / f"{name}.json").rename(folder / f"{name}.{max(numbers, default=0) + 1:04d}.json")
    write_json(folder / "config.json", to_builtin(cfg))
    write_json(folder / "run.json", run | to_builtin(derived))


def git_state() -> dict[str, Any]:
    """Commit of the working tree, and whether its files differ from that commit; None outside a repository.

    New files do not count: a run that writes its results into the repository would make the next one dirty.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def code_version() -> dict[str, str]:
    """The code that computes a step: a hash of this project's files, and the version of torch.

    A commit would not do: working trees may differ from it, and a copy of the files may have none.
    """
    digest = hashlib.sha256()
    for pattern in CODE:
        for file in sorted(ROOT.glob(pattern)):
            digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return {"code": f"sha256 {digest.hexdigest()[:12]}", "torch": str(torch.__version__)}


def versions() -> dict[str, str | None]:
    """Versions of Python, CUDA and the packages that results depend on; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # where another build of OpenCV is installed, for example
            found[package] = None
    return found


def hardware() -> dict[str, Any]:
    """This machine: processor, cores that this process may use, memory, GPUs."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "gpus": [{"name": gpu.name, "memory_mib": gpu.total_memory // 2**20} for gpu in gpus],
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):  # without git, or with a very slow disk, training goes on
        return None
    return done.stdout.strip() if done.returncode == 0 else None
