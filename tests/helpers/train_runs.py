"""Runs train_v2.py for the tests on a few random images: many command lines in one start, or torchrun."""

import os
import pickle
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from helpers.forks import ENVIRONMENT, in_fork
from utils.recordio import IndexedRecordWriter

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "network=mbf",
    "network_args.blocks=[1,1,1,1]",
    "network_args.scale=1",
    "embedding_size=32",
    "batch_size=4",
    "num_steps=6",
    "frequent=1",
    "lr=0.05",
    "num_workers=1",
    "precision=fp32",
    "tensorboard=false",
    "report=false",
    "val_targets=[]",
]


def train_in_forks(command_lines: list[list[str]], largest_files: list[int | None]) -> list[tuple[int, str]]:
    """What `train` returns, in a process that has imported everything."""
    import train_v2
    from utils.command_line import run_script

    outcomes = []
    for arguments, limit in zip(command_lines, largest_files):
        with tempfile.TemporaryFile() as out:
            child = os.fork()
            if child == 0:
                os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
                sys.argv = ["train_v2.py", *arguments]
                if limit is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                run_script(train_v2.main)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            out.seek(0)
            outcomes.append((code, out.read().decode()))
    return outcomes


def train(
    *command_lines: list[str], timeout: float = 120, largest_files: Sequence[int | None] = ()
) -> list[tuple[int, str]]:
    """Run `train_v2.py` with each list of arguments, one after the other; (exit code, output) of each.

    Args:
        largest_files: for each command line, in bytes: what is larger cannot be written, as if the disk were
            full by then. None: no limit.
    """
    lines = [list(map(str, line)) for line in command_lines]
    limits = list(largest_files) or [None] * len(lines)
    outcomes = in_fork("helpers.train_runs.train_in_forks", lines, limits, timeout=timeout)
    return [tuple(outcome) for outcome in outcomes]


def torchrun(
    world_size: int,
    arguments: list[str],
    *options: str,
    script: Path = ROOT / "train_v2.py",
    output=subprocess.PIPE,
) -> subprocess.Popen:
    """Start `train_v2.py` on several processes of this machine; output is one text stream.

    Args:
        options: of torchrun; without any it meets nobody else.
        output: where the text goes to.
    """
    program = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={world_size}"]
    return subprocess.Popen(
        [*program, *(options or ["--standalone"]), str(script), *map(str, arguments)],
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=ENVIRONMENT,
    )


def write_faces(folder: Path, num_classes: int = 5, images_each: int = 8, seed: int = 0) -> Path:
    """Random images under train.rec, in insightface's layout, and pairs of them under pairs.bin."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (num_classes * images_each, 7, 7, 3), dtype=np.uint8)
    images = [cv2.resize(image, (112, 112), interpolation=cv2.INTER_CUBIC) for image in coarse]
    jpegs = [cv2.imencode(".jpg", image)[1].tobytes() for image in images]
    total = len(jpegs)
    with IndexedRecordWriter(folder / "train.idx", folder / "train.rec") as records:
        records.write(0, (total + 1, total + 1 + num_classes), b"")
        for i, jpeg in enumerate(jpegs):
            records.write(1 + i, i // images_each, jpeg)
        for label in range(num_classes):
            records.write(total + 1 + label, (1 + label * images_each, 1 + (label + 1) * images_each), b"")
    (folder / "property").write_text(f"{num_classes},112,112\n")
    same = [i % 2 == 0 for i in range(20)]
    pairs = [jpegs[j] for i in range(20) for j in ((i, i) if same[i] else (i, i + 10))]
    (folder / "pairs.bin").write_bytes(pickle.dumps((pairs, same)))
    return folder
