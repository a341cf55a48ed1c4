"""The output folder of a run: tried out before the first step, and locked for the length of the run.

What would be found at the first save, hours later, is found at once: a folder that is a file, that cannot be
written or has no room, a `checkpoints` link to nowhere, machines that do not share the folder, another run in
it. Rank 0 makes the folder and takes the lock before anything of an earlier run is touched.
"""

import contextlib
import fcntl
import json
import logging
import os
import platform
import secrets
import shutil
import time
from datetime import datetime
from pathlib import Path

from ranks.fail_together import exchange, fail_together
from ranks.preemption import MARKER
from training.checkpoint import sweep
from utils.distributed import rank
from utils.files import remove_partial_files
from utils.logging import LOGGER_NAME

LOCK = "run.lock"
TRUST_S = 5  # in which a network file system has to show what another machine wrote
LEASE_S = 100  # in which a network file system frees the locks of a machine that is gone; NFS: 90 s
PROBE_BYTES = 4096


class RunFolder:
    """The folder at `path`, made where it is missing; every rank makes this object and calls its methods.

    The lock is one of POSIX (fcntl): it ends with the process, however that ends, so a restart finds it free;
    workers that were forked do not hold it; network file systems know it. `run.lock` tells who has it. As
    long as rank 0 holds it, it must not open and close that file again: this would free the lock.

    Args:
        path: as this rank calls it.
        shared: every rank writes into it (checkpoints), not only rank 0.
    Raises, on every rank:
        OSError, ValueError: it cannot be used, another run works in it, or a rank sees another folder.
    """

    def __init__(self, path: str | os.PathLike, *, shared: bool):
        self.path, self._descriptor, owner = Path(path), None, ""
        with fail_together():
            if rank() == 0:
                _make(self.path)
                owner = self._lock()
                self._clear_up()
        owner = exchange(owner)[0]
        with fail_together():
            if rank() > 0 and shared:
                _see(self.path, owner)
            if rank() == 0 or shared:
                _try_writing(self.path)
                _try_writing(self._of_checkpoints)

    def _clear_up(self) -> None:
        """Remove what a run that was stopped or killed has left behind."""
        remove_partial_files(self.path)
        sweep(self.path / "checkpoints")
        for name in (MARKER, "**/.write_test_*"):
            for file in self.path.glob(name):
                file.unlink(missing_ok=True)

    @property
    def _of_checkpoints(self) -> Path:
        """Where the large files go: `checkpoints` may be a link to another disk."""
        checkpoints = self.path / "checkpoints"
        return checkpoints if checkpoints.exists() else self.path

    def require_room(self, num_bytes: int) -> None:
        """Raise on every rank where the disk has less room than one checkpoint and the model take."""
        with fail_together():
            free = shutil.disk_usage(self._of_checkpoints).free if rank() == 0 else num_bytes
            if free < num_bytes:
                raise ValueError(
                    f"{self._of_checkpoints} has room for {free / 2**20:.1f} MiB, but a save takes about "
                    f"{num_bytes / 2**20:.1f} MiB: make room, or choose another output=..."
                )

    def release(self) -> None:
        """Give the lock back, at the end of the run."""
        if self._descriptor is not None:
            if _is_same_file(self._descriptor, self.path / LOCK):  # else it is another run's by now
                (self.path / LOCK).unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self) -> str:
        """Take the lock; returns what `run.lock` then says."""
        path, deadline, has_waited = self.path / LOCK, time.monotonic() + LEASE_S, False
        while True:
            with _named(path):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: somebody has it
                holder = _read_json(descriptor)
                os.close(descriptor)
                if holder.get("host") == platform.node() or time.monotonic() > deadline:
                    raise ValueError(
                        f"another run works in output={self.path}: process {holder.get('pid')} on "
                        f"{holder.get('host')}, since {holder.get('started')}; wait for its end, or choose "
                        f"another output=... (if that machine is gone for good, delete {path})"
                    ) from None
                if not has_waited:
                    logging.getLogger(LOGGER_NAME).warning(
                        f"{path} is locked by {holder.get('host')}; waiting up to {LEASE_S} s, after which "
                        "the lock of a machine that is gone has ended"
                    )
                has_waited = True
                time.sleep(1)
                continue
            except OSError as error:  # a file system without locks
                logging.getLogger(LOGGER_NAME).warning(
                    f"{path} cannot be locked ({error.strerror}): nothing would stop a second run there"
                )
            if _is_same_file(descriptor, path):  # not one that the run before has just deleted
                break
            os.close(descriptor)
        owner = {"host": platform.node(), "pid": os.getpid()}
        owner |= {"started": datetime.now().astimezone().isoformat(timespec="seconds")}
        text = json.dumps(owner | {"token": secrets.token_hex(8)})
        with _named(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode(), 0)
            os.fsync(descriptor)
        self._descriptor = descriptor
        return text


def _make(path: Path) -> None:
    """Make the folder; OSError where it or `checkpoints` in it is something else."""
    for folder, name in ((path, f"output={path}"), (path / "checkpoints", str(path / "checkpoints"))):
        if folder.is_symlink() and not folder.exists():
            raise FileNotFoundError(
                f"{name} is a link to {os.readlink(folder)}, which does not exist: make that folder, or "
                "remove the link"
            )
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{name} is a file: it has to be a folder")
    with _named(path):
        path.mkdir(parents=True, exist_ok=True)


def _try_writing(folder: Path) -> None:
    """Write a small file to the disk, and remove it."""
    probe = folder / f".write_test_{rank()}"
    try:
        with _named(probe), open(probe, "wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _see(path: Path, owner: str) -> None:
    """Wait until `run.lock` says what rank 0 wrote into it; ValueError after TRUST_S seconds."""
    deadline = time.monotonic() + TRUST_S
    while True:
        with contextlib.suppress(OSError):
            if (path / LOCK).read_text() == owner:
                return
        if time.monotonic() > deadline:
            raise ValueError(
                f"output={path} on {platform.node()} is not the folder in which rank 0 works: for "
                "checkpoints all machines need one folder on a file system that they share"
            )
        time.sleep(0.1)


@contextlib.contextmanager
def _named(path: Path):
    """An OSError inside gets `path`, and says what it means."""
    try:
        yield
    except OSError as error:
        meaning = f"cannot write to the output folder: {error.strerror}"
        raise OSError(error.errno, meaning, str(path)) from None


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _read_json(descriptor: int) -> dict:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # its owner is about to write it
        return {}
    return found if isinstance(found, dict) else {}
