"""The output folder: what would be found at the first save is found at once, and two runs never share it."""

import errno
import fcntl
import multiprocessing
import os
import platform
import resource
import signal
import threading
import time
from collections import namedtuple
from contextlib import contextmanager
from datetime import datetime

import pytest

from helpers.ranks import run_ranks
from training import run_folder
from training.run_folder import RunFolder
from utils.distributed import rank

FORK = multiprocessing.get_context("fork")


def attempt(path, connection, limit: int | None = None, **patches) -> None:
    """In a process of its own: use the folder, say what came of it, and stay until killed."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for name, value in patches.items():
        setattr(run_folder, name, value)
    try:
        folder = RunFolder(path, shared=True)
        connection.send("mine")
        connection.recv()
        folder.release()
        connection.send("released")
    except (OSError, ValueError) as error:
        connection.send(str(error))
    time.sleep(60)


@contextmanager
def another_run(path, **how):
    """(what it says, its process, its end of a pipe)."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=attempt, args=(path, theirs), kwargs=how)
    process.start()
    try:
        assert ours.poll(30), "it says nothing"
        yield ours.recv(), process, ours
    finally:
        process.kill()
        process.join()


def contents(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_second_run_is_refused_before_it_touches_anything(tmp_path):
    folder = RunFolder(tmp_path / "run", shared=True)
    assert contents(folder.path) == {"run.lock"}  # the files that tried it out are gone
    with another_run(folder.path) as (said, _, _):
        assert said.startswith(f"another run works in output={folder.path}: process {os.getpid()} on ")
        assert f"{platform.node()}, since {datetime.now():%Y-}" in said
    folder.release()
    assert contents(folder.path) == set()
    with another_run(folder.path) as (said, _, _):
        assert said == "mine"


def test_the_lock_of_a_dead_process_is_taken_over_even_if_its_workers_live(tmp_path):
    with another_run(tmp_path) as (said, process, _):
        assert said == "mine"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        folder = RunFolder(tmp_path, shared=True)
    worker = os.fork()  # such as one of the loader: it inherits the open file
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    try:
        folder.release()
        with another_run(tmp_path) as (said, _, _):
            assert said == "mine"
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_a_machine_that_is_gone_gets_the_time_that_its_locks_take_to_end(tmp_path, monkeypatch):
    elsewhere = namedtuple("Platform", "node")(lambda: "elsewhere")
    with another_run(tmp_path, platform=elsewhere) as (said, _, pipe):
        assert said == "mine"
        monkeypatch.setattr(run_folder, "LEASE_S", 0)
        with pytest.raises(ValueError, match=r"process \d+ on elsewhere, since .* is gone for good, delete"):
            RunFolder(tmp_path, shared=True)
        monkeypatch.setattr(run_folder, "LEASE_S", 30)
        threading.Timer(0.5, pipe.send, ["release"]).start()
        RunFolder(tmp_path, shared=True).release()
        assert pipe.recv() == "released"


def test_a_lock_on_a_file_that_was_just_deleted_does_not_count(tmp_path, monkeypatch):
    real, calls = fcntl.lockf, []

    def lockf(*arguments):
        if not calls:  # the run before ends between our opening and our locking
            (tmp_path / "run.lock").unlink()
        calls.append(real(*arguments))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    folder = RunFolder(tmp_path, shared=True)
    monkeypatch.undo()
    assert len(calls) == 2
    with another_run(tmp_path) as (said, _, _):
        assert "another run works" in said
    folder.release()


def test_a_run_whose_lock_was_deleted_leaves_the_next_one_its_own(tmp_path):
    folder = RunFolder(tmp_path, shared=True)
    (tmp_path / "run.lock").unlink()
    with another_run(tmp_path) as (said, _, _):
        assert said == "mine"
        folder.release()
        assert contents(tmp_path) == {"run.lock"}


def test_without_locks_in_the_file_system_a_run_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    monkeypatch.setattr(run_folder, "LOGGER_NAME", "another")  # the project's does not reach pytest
    RunFolder(tmp_path, shared=True).release()
    assert "run.lock cannot be locked (No locks available)" in caplog.text


def link_to_nowhere(path):
    path.symlink_to(path.parent / "nowhere")


def a_file(path):
    path.write_text("x")


@pytest.mark.parametrize(
    ("make", "where", "output", "message"),
    [
        (a_file, "run", "run", r"^output=.*/run is a file: it has to be a folder$"),
        (a_file, "run", "run/inner", r"cannot write to the output folder: Not a directory"),
        (a_file, "checkpoints", ".", r"checkpoints is a file: it has to be a folder$"),
        (
            link_to_nowhere,
            "run",
            "run",
            r"^output=.*/run is a link to .*/nowhere, which does not exist",
        ),
        (link_to_nowhere, "checkpoints", ".", r"checkpoints is a link to .*/nowhere, which does not exist"),
    ],
)
def test_what_is_no_folder_is_named(tmp_path, make, where, output, message):
    make(tmp_path / where)
    before = contents(tmp_path)
    with pytest.raises(OSError, match=message):
        RunFolder(tmp_path / output, shared=True)
    assert contents(tmp_path) == before


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that root cannot write either")
def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(OSError, match="cannot write to the output folder: ") as caught:
        RunFolder("/proc/self", shared=True)
    assert caught.value.filename == "/proc/self/run.lock"


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_folder_without_room_for_a_small_file_is_named(tmp_path, limit):
    with another_run(tmp_path, limit=limit) as (said, _, _):
        assert "cannot write to the output folder: File too large" in said
    assert contents(tmp_path) == {"run.lock"}


def test_a_link_to_another_disk_is_where_checkpoints_are_tried_out(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir(), (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to(tmp_path / "disk")
    room = namedtuple("Usage", "total used free")
    asked = []

    def disk_usage(path):
        asked.append(path)
        return room(0, 0, 3 << 20)

    monkeypatch.setattr(run_folder.shutil, "disk_usage", disk_usage)
    folder = RunFolder(tmp_path / "run", shared=True)
    folder.require_room(3 << 20)
    with pytest.raises(ValueError, match=r"checkpoints has room for 3.0 MiB, but a save takes about 4.0 MiB"):
        folder.require_room(4 << 20)
    assert asked == 2 * [tmp_path / "run/checkpoints"]
    monkeypatch.setattr(run_folder, "_try_writing", lambda path: asked.append(path))
    RunFolder(tmp_path / "run", shared=True)
    assert asked[2:] == [tmp_path / "run", tmp_path / "run/checkpoints"]


# ---------------------------------------------------------------- two machines


def on_two_machines(root) -> list[str]:
    """Each rank in a folder of its own below `root`, or in one and the same."""
    run_folder.TRUST_S = 0.5
    own = root / f"machine{rank()}"
    said = []
    for path, shared in ((root / "same", True), (own / "run", True), (own / "run", False)):
        try:
            folder = RunFolder(path, shared=shared)
            folder.require_room(1)
            folder.release()
            said.append("fine")
        except (OSError, ValueError) as error:
            said.append(str(error))
    if rank() == 1:  # a stale copy, as of a folder that is copied back and forth
        own.mkdir(exist_ok=True)
        (own / "run.lock").write_text('{"host": "another"}')
    try:
        RunFolder(own, shared=True)
    except ValueError as error:
        said.append(str(error))
    return said


def test_machines_that_do_not_share_the_folder_are_told_on_every_rank(tmp_path):
    first, second = run_ranks(2, on_two_machines, tmp_path)
    assert first == second
    same, own, of_rank_0, copied = first
    assert (same, of_rank_0) == ("fine", "fine")  # without checkpoints only rank 0 writes
    for said in (own, copied):
        assert said.startswith(f"rank 1: output={tmp_path}/machine1")
        assert "is not the folder in which rank 0 works" in said
    assert not (tmp_path / "machine1/run").exists()
