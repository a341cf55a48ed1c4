"""Files are whole or absent, and seeds are functions of their numbers."""

import json

import pytest

from utils.files import whole_file, write_json
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


def test_json_makes_its_folder_and_takes_paths(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"folder": tmp_path})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"folder": str(tmp_path)}


def test_seeds_differ_in_each_number_and_repeat():
    numbers = [(seed, rank, step) for seed in range(3) for rank in range(3) for step in range(3)]
    seeds = {seed_of(*each) for each in numbers}
    assert len(seeds) == len(numbers)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)
