"""What happened to a checkpoint on the disk is found when it is loaded, and the way back is told."""

import json
import logging

import pytest
import torch

from helpers.checkpoints import NUM_CLASSES, SHARED, assert_every_split_loads, damage, per_class, save
from helpers.disk import damaged
from training import checkpoint, manifest


def assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict | list | tuple):
        items = zip(one.items(), other.items()) if isinstance(one, dict) else zip(one, other)
        assert len(one) == len(other)
        for first, second in items:
            assert_equal(first, second)
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_no_flipped_bit_of_any_file_loads_as_other_numbers(tmp_path):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    right = checkpoint.load(tmp_path, 2, 7)
    told, loaded = [], 0
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        for seed in range(80):
            file.write_bytes(damaged(data, seed))
            try:
                assert_equal(checkpoint.load(tmp_path, 2, 7), right)
                loaded += 1
            except (ValueError, FileNotFoundError) as error:
                told.append((file.name, seed, str(error)))
        file.write_bytes(data)
    remedy = f"; remove {path.name} from {tmp_path} to go back to the checkpoint of step 1"
    assert [each for each in told if not each[2].startswith(str(path)) or not each[2].endswith(remedy)] == []
    assert len(told) > 200
    assert loaded > 0  # a bit of the name "crc32" in the manifest, for example


NOT_MANIFESTS = (
    *(
        "[]",
        "{}",
        "1",
        "null",
        "[" * 100_000,
        '{"files": []}',
        '{"files": ["ab"]}',
        '{"files": {"shared.pt": 5}}',
    ),
    '{"files": {"shared.pt": 5, "classes_000000000-000000009.pt": 5, "../../etc/passwd": 5}}',
    '{"files": {"shared.pt": 5, "classes_000000000-000000009.pt": 5}, "crc32": 3}',
)


@pytest.mark.parametrize("content", NOT_MANIFESTS)
def test_what_is_no_manifest_is_told(tmp_path, content):
    (save(tmp_path) / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json is damaged.*start again, with another output"):
        checkpoint.load(tmp_path, 0, NUM_CLASSES)


def test_a_damaged_checkpoint_names_the_newest_whole_one_before_it(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=4)
    damage(tmp_path / "step_00000004" / "manifest.json", "truncated")
    damage(tmp_path / "step_00000003" / "shared.pt", "overwritten")
    with pytest.raises(ValueError, match=r"manifest.json is damaged; ") as error:
        checkpoint.load(tmp_path, 0, NUM_CLASSES)
    expected = (
        f"remove step_00000004 and step_00000003 from {tmp_path} to go back to the checkpoint of step 2"
    )
    assert str(error.value).endswith(f"; {expected}")


def written_by_an_older_version(path):
    files = json.loads((path / manifest.NAME).read_text())
    del files["crc32"]
    (path / manifest.NAME).write_text(json.dumps(files))


def test_a_checkpoint_without_checksums_loads_with_a_word(tmp_path, caplog):
    written_by_an_older_version(save(tmp_path))
    with caplog.at_level(logging.INFO, "lqface"):
        assert_every_split_loads(tmp_path)
    assert {record.getMessage() for record in caplog.records} == {
        f"{tmp_path / 'step_00000001'} is of an older version, without checksums"
    }


@pytest.mark.parametrize("name", ["shared.pt", "classes_000000000-000000010.pt"])
@pytest.mark.parametrize("older", [False, True])
def test_a_checkpoint_with_nan_is_told_and_the_one_before_it_named(tmp_path, monkeypatch, name, older):
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "require_finite", lambda *_: None)  # as older versions saved
    shared, rows = {**SHARED, "backbone": {"fc.weight": torch.zeros(3)}}, per_class(0, NUM_CLASSES)
    target = shared["backbone"]["fc.weight"] if name == "shared.pt" else rows["weight"]
    target.flatten()[2] = torch.inf
    path = checkpoint.save(tmp_path, 2, shared, rows, 0)
    if older:
        written_by_an_older_version(path)
    where = "backbone.fc.weight" if name == "shared.pt" else "weight"
    with pytest.raises(
        ValueError, match=rf"{name} holds numbers that are not finite, first in {where}; "
    ) as e:
        checkpoint.load(tmp_path, 0, NUM_CLASSES)
    assert str(e.value).endswith(
        f"remove step_00000002 from {tmp_path} to go back to the checkpoint of step 1"
    )
