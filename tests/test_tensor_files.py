"""A file of tensors has a checksum, an error of the disk its reason, and what is not finite a name."""

import zlib

import pytest
import torch

from helpers.disk import damaged, file_size_limit
from utils.tensor_files import (
    content_checksum,
    file_checksum,
    first_not_finite,
    require_finite,
    write_tensors,
)

CONTENT = {"weight": torch.arange(50_000.0), "step": 3, "nested": [torch.ones(2, 3, dtype=torch.bfloat16)]}


def test_the_checksum_is_that_of_the_bytes_and_torch_loads_the_file(tmp_path):
    path = tmp_path / "a.pt"
    assert write_tensors(path, CONTENT) == file_checksum(path) == zlib.crc32(path.read_bytes())
    loaded = torch.load(path, weights_only=True)
    assert torch.equal(loaded["weight"], CONTENT["weight"])
    assert loaded["step"] == 3


def test_no_damage_keeps_the_checksum(tmp_path):
    path = tmp_path / "a.pt"
    checksum = write_tensors(path, {"weight": torch.rand(300)})
    data = path.read_bytes()
    for seed in range(300):
        if (other := damaged(data, seed)) != data:
            path.write_bytes(other)
            assert file_checksum(path) != checksum, seed


@pytest.mark.parametrize("limit", [0, 100, 1000, 150_000, 200_500])
def test_a_full_disk_has_its_reason_and_path_wherever_it_becomes_full(tmp_path, limit):
    path = tmp_path / "a.pt"
    with file_size_limit(limit), pytest.raises(OSError, match="File too large") as error:
        write_tensors(path, CONTENT)
    assert error.value.filename == str(path)
    assert path.stat().st_size <= limit


def test_a_folder_that_is_not_there_has_its_path(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_tensors(tmp_path / "none" / "a.pt", CONTENT)
    assert error.value.filename == str(tmp_path / "none" / "a.pt")


WEIGHTS = {
    "conv": torch.rand(4, 3, 3, 3).to(memory_format=torch.channels_last),
    "count": torch.tensor(5),
    "half": torch.rand(3).half(),
    "none": torch.zeros(0),
}
SETTINGS = {"network": "r50", "network_args": {"blocks": (1, 2)}, "scale": 1.5}


def test_the_content_s_checksum_survives_saving_and_loading(tmp_path):
    checksum = content_checksum(WEIGHTS, SETTINGS)
    torch.save([WEIGHTS, SETTINGS], tmp_path / "a.pt")
    assert content_checksum(*torch.load(tmp_path / "a.pt", weights_only=True)) == checksum
    contiguous = {name: tensor.contiguous() for name, tensor in WEIGHTS.items()}
    assert content_checksum(contiguous, {**SETTINGS, "network_args": {"blocks": [1, 2]}}) == checksum


@pytest.mark.parametrize(
    "change",
    [
        lambda w, s: w.update(conv=w["conv"].clone().mul_(-1)),
        lambda w, s: w.update(conv=w["conv"].reshape(3, 4, 3, 3)),
        lambda w, s: w.update(half=w["half"].view(torch.int16)),
        lambda w, s: w.update(cout=w.pop("count")),
        lambda w, s: w.update(none=torch.zeros(0, 2)),
        lambda w, s: w.pop("none"),
        lambda w, s: s.update(network="r34"),
        lambda w, s: s.update(input_order="BGR"),
    ],
)
def test_the_content_s_checksum_covers_names_types_shapes_values_and_settings(change):
    weights, settings = dict(WEIGHTS), dict(SETTINGS)
    change(weights, settings)
    assert content_checksum(weights, settings) != content_checksum(WEIGHTS, SETTINGS)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_first_tensor_that_is_not_finite_is_named(value, dtype):
    broken = torch.zeros(1000, dtype=dtype)
    broken[-1] = value
    content = {"fine": torch.ones(3), "optimizer": [{"lr": 0.1}, {"momentum": broken}], "later": broken}
    assert first_not_finite(content) == "optimizer.1.momentum"
    with pytest.raises(
        ValueError, match=r"^model.pt: optimizer.1.momentum holds numbers that are not finite"
    ):
        require_finite(content, "model.pt")


def test_infinities_of_both_signs_and_plain_numbers_count_too():
    assert first_not_finite({"a": torch.tensor([torch.inf, -torch.inf])}) == "a"
    assert first_not_finite({"a": {"scale": float("nan")}}) == "a.scale"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_numbers_are_finite_even_where_their_sum_is_not(dtype):
    large = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    content = {
        "large": large,
        "flags": torch.tensor([True]),
        "count": torch.tensor(3),
        "text": "nan",
        "x": None,
    }
    assert first_not_finite(content) is None
