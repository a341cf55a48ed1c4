"""What evaluation scripts share: features kept on disk under what they follow from, runs on several ranks."""

import ast
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from backbones import load_backbone
from backbones.export import description, write_onnx
from eval.features import chosen_precision
from eval.readers.bin_sets import load_bin
from eval.readers.errors import NUM_SHOWN, ListedError
from eval.readers.faces import AlignedFaces
from eval.readers.image_sets import find_images
from eval.run import CACHE, Evaluation, arguments, evaluation, list_faults_in_file
from helpers.evaluation_runs import BINS, ROOT, png, save_small_model
from helpers.ranks import run_ranks
from utils.distributed import rank

EVAL = ROOT / "eval"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "model.pt")


def parsed(model, out, *more):
    return arguments("").parse_args(["--model", str(model), "--data", ".", "--out", str(out), *more])


def counted(run: Evaluation, faces, mirror=True) -> tuple[np.ndarray, np.ndarray | None, int]:
    """What run.features returns, and how often the network ran for it."""
    calls = []
    run.backbones[0].register_forward_pre_hook(lambda *_: calls.append(1))
    return *run.features(faces, mirror=mirror), len(calls)


def features(model, faces, out, *more, mirror=True):
    with evaluation(parsed(model, out, *more), "x", "X") as run:
        return counted(run, faces, mirror)


@pytest.fixture
def folder(tmp_path):
    """Three faces in files, as a list of paths."""
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(png((50 * i, 10, 20)))
    return paths


def test_a_repeated_evaluation_neither_runs_the_network_nor_reads_images(
    tmp_path, model, folder, monkeypatch
):
    plain, flip, calls = features(model, AlignedFaces(folder), tmp_path / "out", "--batch-size", "2")
    assert calls == 4  # two batches, two views
    assert (plain.shape, flip.shape, plain.dtype) == ((3, 32), (3, 32), np.float32)
    monkeypatch.setattr(AlignedFaces, "read", None)
    again, again_flip, calls = features(model, AlignedFaces(folder), tmp_path / "out", "--batch-size", "2")
    assert calls == 0
    assert np.array_equal(again, plain)
    assert np.array_equal(again_flip, flip)
    # Another script, or another output folder beside the first, finds them too.
    assert features(model, AlignedFaces(folder), tmp_path / "other")[2] == 0
    assert [path.suffix for path in (tmp_path / CACHE).iterdir()] == [".npz"]


def test_a_folder_of_another_protocol_is_refused_and_of_the_same_one_replaced(tmp_path, model):
    args = parsed(model, tmp_path / "out")
    for _ in range(2):
        with evaluation(args, "x", "TinyFace") as run:
            run.report.write(run.out)
    kept = (tmp_path / "out" / "results.json").read_bytes()
    with pytest.raises(ValueError, match=r"out holds the results of TinyFace, which those of"):
        evaluation(args, "y", "IJB-S").__enter__()
    assert (tmp_path / "out" / "results.json").read_bytes() == kept


def test_features_that_cannot_be_kept_cost_a_warning_and_numbers_are_printed_before_anything_is_written(
    tmp_path, model, folder, capsys, monkeypatch
):
    (tmp_path / CACHE).write_text("in the way")
    with evaluation(parsed(model, tmp_path / "out"), "x", "X") as run:
        assert run.features(AlignedFaces(folder))[0].shape == (3, 32)
        monkeypatch.setattr("eval.report.write_json", None)
        with pytest.raises(TypeError):
            run.report.write(run.out)
    assert "Warning: features were not kept: " in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_found_before_the_network_is_loaded(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file/out"):
        evaluation(parsed("none.pt", tmp_path / "file" / "out"), "x", "X").__enter__()


def test_another_model_precision_or_image_is_another_key(tmp_path, model, folder):
    faces = AlignedFaces(folder)
    array = faces[0:3]

    def calls(model=model, faces=faces, *more):
        return features(model, faces, tmp_path / "out", *more)[2]

    assert calls() == 2
    assert calls(save_small_model(tmp_path / "other.pt", seed=1)) == 2
    assert calls(model, faces, "--precision", "bf16") == 2
    assert calls(model, faces, "--precision", "fp32") == 0  # what auto means on a CPU
    assert calls(model, array) == 2
    assert calls(model, array.copy()) == 0
    array[2, 5, 5, 0] += 1
    assert calls(model, array) == 2
    folder[1].write_bytes(png((1, 2, 3)))
    os.utime(folder[1], ns=(7, 7))
    assert calls(model, AlignedFaces(folder)) == 2
    (tmp_path / "copy.pt").write_bytes(model.read_bytes())  # the content counts, not the name
    assert calls(tmp_path / "copy.pt", faces) == 0


def test_a_gpus_features_are_not_reported_as_the_processors(tmp_path, model, folder):
    args, faces = parsed(model, tmp_path / "out"), AlignedFaces(folder)
    with evaluation(args, "x", "X") as run:
        here, settings = run.cache_file(faces, 0), run.settings()
        run.device = torch.device("cuda", 1)
        assert run.cache_file(faces, 0) != here
        assert (settings["device"], run.settings()["device"]) == ("cpu", "cuda")


def test_mirror_images_are_kept_where_they_were_wanted_and_cost_nothing_where_not(tmp_path, model, folder):
    faces = AlignedFaces(folder)
    plain, flip, calls = features(model, faces, tmp_path / "out", mirror=False)
    assert (flip, calls) == (None, 1)
    (kept,) = (tmp_path / CACHE).iterdir()
    small = kept.stat().st_size
    again, flip, calls = features(model, faces, tmp_path / "out", mirror=False)
    assert (flip, calls) == (None, 0)
    assert np.array_equal(again, plain)
    both, flip, calls = features(model, faces, tmp_path / "out")  # the file lacks what is wanted now
    assert calls == 2
    assert (both.shape, flip.shape) == ((3, 32), (3, 32))
    assert list((tmp_path / CACHE).iterdir()) == [kept]
    assert kept.stat().st_size > 1.4 * small
    assert np.array_equal(features(model, faces, tmp_path / "out")[1], flip)
    again, flip, calls = features(model, faces, tmp_path / "out", mirror=False)  # the file has more
    assert (flip, calls) == (None, 0)
    assert np.array_equal(again, both)


def test_a_damaged_cache_is_made_again(tmp_path, model, folder):
    faces = AlignedFaces(folder)
    plain, *_ = features(model, faces, tmp_path / "out")
    (kept,) = (tmp_path / CACHE).iterdir()
    whole = kept.read_bytes()
    changed = bytearray(whole)
    changed[300] ^= 1  # within the features: only the archive's checksum shows it
    for damage in (b"", whole[: len(whole) // 2], whole[:-1], bytes(changed), b"not an archive"):
        kept.write_bytes(damage)
        found, _, calls = features(model, faces, tmp_path / "out")
        assert calls == 2
        assert np.array_equal(found, plain)
        assert kept.read_bytes() == whole
    np.savez(kept, plain=plain[:2], flip=plain[:2])  # of other faces
    assert features(model, faces, tmp_path / "out")[2] == 2
    assert list((tmp_path / CACHE).iterdir()) == [kept]


def test_without_a_cache_none_is_read_or_written(tmp_path, model, folder):
    faces = AlignedFaces(folder)
    assert [features(model, faces, tmp_path / "out", "--no-cache")[2] for _ in range(2)] == [2, 2]
    assert not (tmp_path / CACHE).exists()


def features_on_rank(folders: list[Path], model: Path, images: np.ndarray) -> list:
    """Twice in each folder, with a disk for each rank; the group is that of the test."""
    found = []
    for folder in folders:
        args = parsed(model, folder / str(rank()) / "out")
        run = Evaluation(args, "x", "X", torch.device("cpu"))
        found += [counted(run, images) for _ in range(2)]
        found.append(counted(run, images, mirror=False))
    return found


def test_ranks_agree_whether_the_cache_holds_the_features(tmp_path, model):
    images = load_bin(BINS / "py3.bin")[0][:9]
    on_rank_0, on_rank_1 = tmp_path / "a", tmp_path / "b"
    expected = features(model, images, on_rank_0 / "0" / "out")[:2]
    features(model, images, on_rank_1 / "1" / "out")
    for found in run_ranks(2, features_on_rank, [on_rank_0, on_rank_1], model, images):
        assert [calls for *_, calls in found] == [
            *(0, 0, 0),
            *(2, 0, 0),
        ]  # what rank 1 has on its disk is never looked at
        for plain, flip, _ in found:
            views = np.stack([plain] if flip is None else [plain, flip])
            assert np.allclose(views, expected[: len(views)], rtol=1e-4, atol=1e-5 * np.abs(expected).max())
        assert [flip is None for _, flip, _ in found] == [False, False, True] * 2
    assert not (on_rank_0 / "1").exists()


def test_an_error_that_lists_many_names_says_where_all_of_them_are(tmp_path):
    args, stems = parsed("none.pt", tmp_path / "new" / "out"), [f"1_{i}" for i in range(12)]
    (tmp_path / "aligned").mkdir()
    (tmp_path / "aligned" / "1_0.jpg").touch()
    path = tmp_path / "new" / "out.faulty.txt"
    for wanted, end in ((stems, f"; all of them: {path}"), (stems[:5], "of 5 images of the list")):
        with pytest.raises(FileNotFoundError) as error, list_faults_in_file(args, "x"):
            find_images(wanted, tmp_path / "aligned", "the list")
        assert isinstance(error.value, ListedError)
        assert error.value.names == wanted[1:]
        assert "lacks" in str(error.value)
        assert str(error.value).endswith(end)
        assert "\n" not in str(error.value)
        if len(wanted) > NUM_SHOWN + 1:
            assert path.read_text().splitlines() == stems[1:]
    with list_faults_in_file(args, "x"):
        assert path.exists()
    assert not path.exists()  # nothing is wrong any more
    (tmp_path / "new" / "out.faulty.txt").mkdir()  # cannot be written: the error itself counts
    with pytest.raises(FileNotFoundError, match=r"of the list$"), list_faults_in_file(args, "x"):
        find_images(stems, tmp_path / "aligned", "the list")


def test_the_output_lies_beside_the_model_unless_told_otherwise(tmp_path, model):
    args = arguments("").parse_args(["--model", str(model), "--data", "x"])
    with evaluation(args, "tinyface", "TinyFace") as run:
        assert run.out == Path(f"{model}.tinyface")
        assert run.is_main
        assert not run.out.exists()  # until there is something to write
        settings = run.report.settings
    assert settings["models"][0]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert settings["models"][0] | {"sha256": ""} == {
        "file": str(model), "network": "mbf", "input_order": "RGB", "sha256": ""
    }  # fmt: skip


def test_an_onnx_file_is_evaluated_like_the_network_that_it_was_made_of(tmp_path, model, folder):

    network = load_backbone(model)
    path = tmp_path / "model.onnx"
    write_onnx(path, network, description(network), batch=None, legacy=True)
    faces = AlignedFaces(folder)
    plain, _, calls = features(path, faces, tmp_path / "out")
    assert calls == 2
    expected, *_ = features(model, faces, tmp_path / "other")
    assert np.abs(plain - expected).max() < 1e-4 * np.abs(expected).max()
    assert features(path, faces, tmp_path / "out")[2] == 0
    # The same file read with another normalisation is another network.
    assert features(path, faces, tmp_path / "out", "--normalise", "127.5", "128")[2] == 2
    with evaluation(parsed(path, tmp_path / "out"), "x", "X") as run:
        (settings,) = run.report.settings["models"]
    assert (settings["input_order"], settings["normalise"]) == ("RGB", [127.5, 127.5])
    with pytest.raises(ValueError, match="--precision bf16 means nothing for"):
        features(path, faces, tmp_path / "out", "--precision", "bf16")


def test_a_gpu_takes_bf16_by_default_and_the_report_and_the_cache_say_so(
    tmp_path, model, folder, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    on_gpu = {}
    for precision in ("auto", "fp32"):
        args = parsed(model, tmp_path / "out", "--precision", precision)
        with evaluation(args, "x", "X") as run:
            assert run.settings()["precision"] == "fp32"
            run.precision = chosen_precision(args.precision, torch.device("cuda"))
            on_gpu[run.settings()["precision"]] = run.cache_file(AlignedFaces(folder), 0)
    assert on_gpu.keys() == {"bf16", "fp32"}
    assert on_gpu["bf16"] != on_gpu["fp32"]


def test_several_models_have_features_of_their_own(tmp_path, model, folder):
    other = save_small_model(tmp_path / "other.pt", seed=1)
    parser = arguments("", several=["model"])
    args = parser.parse_args(
        ["--model", str(model), str(other), "--data", "x", "--out", str(tmp_path / "out")]
    )
    with evaluation(args, "x", "X") as run:
        first, second = (run.features(AlignedFaces(folder), model=i)[0] for i in range(2))
    assert np.array_equal(first, features(model, AlignedFaces(folder), tmp_path / "out")[0])
    assert np.array_equal(second, features(other, AlignedFaces(folder), tmp_path / "out")[0])
    assert not np.allclose(first, second)


def test_only_the_scripts_know_how_they_are_run_and_nobody_imports_a_script():
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in EVAL.rglob("*.py")}
    scripts = {name for name, path in files.items() if "run_script(main)" in path.read_text()}
    assert {"eval.verification", "eval.eval_ijb"} < scripts
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert not imported & scripts, f"{name} imports a script: move what it needs into a module"
                assert name in scripts or "eval.run" not in imported, name


def test_what_no_run_can_use_is_reported_before_it_starts_and_leaves_no_group(tmp_path, model):
    (tmp_path / "file").write_text("")
    for more, message in (
        (["--precision", "pf16"], "did you mean 'fp16'"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--out", str(tmp_path / "file")], "is a file, expected a folder"),
        (["--model", str(tmp_path / "none.pt")], "no model file"),
        (["--network", "r50"], "holds network 'mbf', not 'r50'"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            features(model, None, tmp_path / "out", *more)
        assert not dist.is_initialized()
