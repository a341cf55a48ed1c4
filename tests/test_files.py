"""Files are whole or absent, and seeds are functions of their numbers."""

import json
import os
import subprocess
import sys

import pytest

from helpers.disk import file_size_limit
from utils.files import (
    remove_partial_files,
    try_writing,
    unlike_names,
    whole_file,
    whole_files,
    whole_folder,
    write_json,
)
from utils.run_info import ROOT
from utils.seeds import seed_of


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as partial:
        partial.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail_halfway():
        with whole_file(path) as partial:
            partial.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fail_halfway()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


def test_a_folder_appears_only_when_it_is_filled_and_replaces_none(tmp_path):
    path = tmp_path / "new" / "folder"
    with whole_folder(path) as partial:
        (partial / "file").touch()
        assert not path.exists()
    assert list(path.parent.rglob("*")) == [path, path / "file"]
    with pytest.raises(FileExistsError, match="folder exists already"), whole_folder(path):
        pass
    with pytest.raises(KeyError), whole_folder(tmp_path / "other"):
        raise KeyError
    assert list(tmp_path.iterdir()) == [path.parent]


def test_files_that_belong_together_replace_earlier_ones_or_leave_them(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail_halfway():
        with whole_files(path) as folder:
            (folder / "file").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]
    with whole_files(path) as folder:
        (folder / "file").write_text("new")
        (folder / "file.data").write_text("more")
        assert path.read_text() == "old"
    found = sorted((file.name, file.read_text()) for file in tmp_path.iterdir())
    assert found == [("file", "new"), ("file.data", "more")]


def test_a_full_disk_names_the_file_that_it_was_to_become(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with file_size_limit(1000), pytest.raises(OSError, match="File too large") as error:
        write_json(path, {"x": "y" * 2000})
    assert error.value.filename == str(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write_json(tmp_path / "folder", {})
    assert error.value.filename == str(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    with pytest.raises(FileNotFoundError) as error, whole_file(path):
        (tmp_path / "another").read_text()
    assert error.value.filename == str(tmp_path / "another")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


WRITER = """
import sys
sys.path.insert(0, {root!r})
from utils.files import whole_file
with whole_file({path!r}) as partial:
    partial.write_text("half")
    print(partial.name, flush=True)
    sys.stdin.read()
"""


def names(folder) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    program = WRITER.format(root=str(ROOT), path=str(tmp_path / "model.pt"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as writer:
        partial = writer.stdout.readline().strip()
        remove_partial_files(tmp_path)
        assert names(tmp_path) == {partial}
        with whole_file(tmp_path / "model.pt") as mine:  # two writers: the last one wins
            mine.write_text("mine")
        assert names(tmp_path) == {"model.pt", partial}
        writer.kill()
        writer.wait()
        assert names(tmp_path) == {"model.pt", partial}
        (tmp_path / "notes.partial").write_text("not ours")
        (tmp_path / "a.b.7.partial").write_text("left by a process of another machine")
        with whole_file(tmp_path / "model.pt") as mine:  # the leftovers of this file, of no other
            assert names(tmp_path) == {"model.pt", mine.name, "notes.partial", "a.b.7.partial"}
            mine.write_text("again")
        remove_partial_files(tmp_path)
        assert names(tmp_path) == {"model.pt", "notes.partial"}


def test_a_leftover_with_this_process_s_own_number_is_written_over(tmp_path):
    # In a container every run may have the same number.
    (tmp_path / f"file.{os.getpid()}.partial").write_text("left by a run that was killed")
    with whole_file(tmp_path / "file") as partial:
        partial.write_text("new")
    assert (names(tmp_path), (tmp_path / "file").read_text()) == ({"file"}, "new")


def test_json_makes_its_folder_and_takes_paths(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"folder": tmp_path})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"folder": str(tmp_path)}


def test_seeds_differ_in_each_number_and_repeat():
    numbers = [(seed, rank, step) for seed in range(3) for rank in range(3) for step in range(3)]
    seeds = {seed_of(*each) for each in numbers}
    assert len(seeds) == len(numbers)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)


def test_a_place_is_tried_before_the_work_and_nothing_stays_there(tmp_path):
    for free in (tmp_path / "new.json", tmp_path / "a/b/new.json", tmp_path):
        try_writing(free)
    (tmp_path / "file").write_text("")
    try_writing(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match=r"file/new\.json"):
        try_writing(tmp_path / "file" / "new.json")
    with pytest.raises(FileNotFoundError, match="/proc/none"):
        try_writing("/proc/none")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_names_say_as_much_of_a_path_as_tells_them_apart(tmp_path):
    assert unlike_names(["a/lfw.bin", "b/cfp.bin"], stems=True) == ["lfw", "cfp"]
    assert unlike_names(["a/lfw.bin", "b/lfw.bin"], stems=True) == ["a/lfw", "b/lfw"]
    assert unlike_names(["a/lfw.bin", "a/lfw.old"], stems=True) == ["lfw.bin", "lfw.old"]
    assert unlike_names(["x/a/m.pt", "y/a/m.pt"]) == ["x/a/m.pt", "y/a/m.pt"]
    with pytest.raises(ValueError, match="is named twice"):
        unlike_names([tmp_path / "m.pt", f"{tmp_path}/./m.pt"])
