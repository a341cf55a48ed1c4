"""Verification: the protocol against recorded numbers and a plain loop, `.bin` files kind and hostile,
features over ranks, and the scripts from another directory."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ranks import run_ranks
from sklearn.model_selection import KFold
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from backbones import get_model, save_backbone
from eval.bin_format import save_bin
from eval.features import extract
from eval.metrics import normalise
from eval.verification import evaluate, load_bin, load_set, verify

ROOT = Path(__file__).parents[1]
GOLDENS = Path(__file__).parent / "goldens"
BINS = GOLDENS / "bin"

# ----------------------------------------------------------------------------------------------- the protocol


def test_the_recorded_numbers_are_met_exactly():
    golden = np.load(GOLDENS / "verification.npz")
    result = evaluate(normalise(golden["plain"] + golden["flip"]), golden["issame"])
    assert np.array_equal(result.accuracy, golden["accuracy"])
    assert np.array_equal(result.tpr, golden["tpr"])
    assert np.array_equal(result.fpr, golden["fpr"])


@pytest.fixture(scope="module")
def lfw():
    golden = np.load(GOLDENS / "lfw_embeddings.npz")
    unit = normalise(golden["plain"].astype(np.float64) + golden["flip"])
    return unit[golden["pairs"].reshape(-1)], golden["issame"], golden["accuracy"]


def test_real_features_on_lfw_score_as_recorded(lfw):
    embeddings, issame, accuracy = lfw
    result = evaluate(embeddings, issame)
    assert np.array_equal(result.accuracy, accuracy)
    assert result.mean == pytest.approx(0.99433, abs=5e-6)
    assert result.std == np.std(accuracy)  # of the population, not of a sample
    assert 0.25 < result.cosine_threshold.min() <= result.cosine_threshold.max() < 0.35
    assert result.val == pytest.approx(0.98933, abs=5e-6)


def test_six_thousand_pairs_take_at_most_a_fifth_of_a_second(lfw):
    embeddings, issame, _ = lfw
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        evaluate(embeddings, issame)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


def slow_reference(distance, issame, num_folds):
    """SPEC's steps as plain loops: accuracy, tpr, fpr, thresholds, val, far."""
    thresholds, fine = np.arange(0, 4, 0.01), np.arange(0, 4, 0.001)
    accuracy, tpr, fpr, best, val, far = [], [], [], [], [], []
    for train, test in KFold(num_folds, shuffle=False).split(distance):
        right = [np.sum((distance[train] < t) == issame[train]) for t in thresholds]
        best.append(thresholds[np.argmax(right)])
        accuracy.append(np.mean((distance[test] < best[-1]) == issame[test]))
        same, different = distance[test][issame[test]], distance[test][~issame[test]]
        tpr.append([np.mean(same < t) if len(same) else 0 for t in thresholds])
        fpr.append([np.mean(different < t) if len(different) else 0 for t in thresholds])

        strangers = distance[train][~issame[train]]
        rate = [np.mean(strangers < t) if len(strangers) else 0 for t in fine]
        strict = 0
        for i in range(1, len(fine)):
            if rate[i] >= 1e-3:
                strict = fine[i - 1] + (fine[i] - fine[i - 1]) * (1e-3 - rate[i - 1]) / (
                    rate[i] - rate[i - 1]
                )
                break
        val += [np.mean(same < strict)] if len(same) else []
        far += [np.mean(different < strict)] if len(different) else []
    return accuracy, np.mean(tpr, 0), np.mean(fpr, 0), best, np.mean(val), np.mean(far)


@settings(max_examples=25)
@given(st.data(), st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_evaluation_equals_a_plain_loop(data, num_folds, seed):
    num_pairs = data.draw(st.integers(num_folds, 37))
    rng = np.random.default_rng(seed)
    issame = rng.random(num_pairs) < 0.5
    assume(0 < issame.sum() < num_pairs)
    # Squared distances exactly on thresholds (0, 2), at the end of the range (4), repeated, and anywhere.
    angle = rng.choice([0, np.pi / 2, np.pi, 1.0, *rng.uniform(0, np.pi, 12)], num_pairs)
    second = np.where(
        np.isin(angle, [0, np.pi / 2, np.pi])[:, None], np.round([np.cos(angle), np.sin(angle)]).T, 0
    )
    second = np.where(second.any(axis=1)[:, None], second, np.stack([np.cos(angle), np.sin(angle)], axis=1))
    embeddings = np.empty((2 * num_pairs, 2))
    embeddings[0::2], embeddings[1::2] = (1, 0), second

    result = evaluate(embeddings, issame, num_folds)
    distance = np.sum((embeddings[0::2] - embeddings[1::2]) ** 2, axis=1)
    accuracy, tpr, fpr, best, val, far = slow_reference(distance, issame, num_folds)
    assert np.array_equal(result.accuracy, accuracy)
    assert np.array_equal(result.threshold, best)
    assert np.allclose(result.tpr, tpr, atol=1e-12)
    assert np.allclose(result.fpr, fpr, atol=1e-12)
    assert (result.val, result.far) == (pytest.approx(val), pytest.approx(far))


def pairs_at(cosine_same: float, cosine_different: float, num_pairs: int = 600):
    """Unit embeddings in the plane, alternately a same and a different pair, at the given cosines."""
    issame = np.arange(num_pairs) % 2 == 0
    cosine = np.where(issame, cosine_same, cosine_different)
    embeddings = np.empty((2 * num_pairs, 2))
    embeddings[0::2] = (1, 0)
    embeddings[1::2] = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)
    return embeddings, issame


def test_perfect_features_score_one():
    result = evaluate(*pairs_at(0.9003, 0.1003))
    assert (result.mean, result.std, result.val, result.far) == (1, 0, 1, 0)
    # All thresholds between the two distances (0.1994, 1.7994) are equally good: the smallest wins.
    assert np.allclose(result.threshold, 0.2)


def test_inverted_features_are_no_better_than_accepting_nobody():
    result = evaluate(*pairs_at(0.1003, 0.9003))
    assert result.mean == 0.5
    assert (result.threshold == 0).all()
    assert result.val == 0


def test_random_features_score_chance():
    rng = np.random.default_rng(0)
    result = evaluate(normalise(rng.normal(size=(12000, 16))), np.arange(6000) % 2 == 0)
    assert abs(result.mean - 0.5) < 0.02
    assert result.val < 0.02


def test_the_cosine_threshold_is_the_distance_threshold_in_other_words():
    embeddings, issame = pairs_at(0.9003, 0.1003)
    result = evaluate(embeddings, issame)
    cosine = np.sum(embeddings[0::2] * embeddings[1::2], axis=1)
    assert np.array_equal(cosine > result.cosine_threshold[0], issame)


@pytest.mark.parametrize(
    ("embeddings", "issame", "message"),
    [
        (np.eye(4), [True, False, True], r"\(4, 4\) and issame \(3,\) do not fit"),
        (np.eye(4)[:3], [True, False], "do not fit"),
        (2 * np.eye(4), [True, False], "length 2"),
        (np.full((4, 4), np.nan), [True, False], "length nan"),
        (np.eye(4), [True, True], "all 2 pairs are of the same person"),
        (np.eye(4), [False, False], "all 2 pairs are of different people"),
        (np.eye(4), [True, False], "2 items cannot be split into 10 folds"),
    ],
)
def test_input_that_cannot_be_scored_is_an_error(embeddings, issame, message):
    with pytest.raises(ValueError, match=message):
        evaluate(embeddings, np.array(issame))


# ------------------------------------------------------------------------------------------------- .bin files


def test_python_2_python_3_and_numpy_sets_hold_the_same_images():
    images, issame = load_bin(BINS / "py3.bin")
    assert (images.shape, images.dtype, issame.dtype) == ((40, 112, 112, 3), np.uint8, bool)
    for name in ("py2.bin", "numpy.bin"):
        others, others_issame = load_bin(BINS / name)
        assert np.array_equal(images, others)
        assert np.array_equal(issame, others_issame)


def png(colour=(200, 100, 50), height=112, width=112) -> bytes:
    """A plain image; the colour is RGB."""
    image = np.full((height, width, 3), colour[::-1], np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def test_images_come_out_as_rgb(tmp_path):
    save_bin(tmp_path / "a.bin", [png(), png((1, 2, 3))], [False])
    images, issame = load_bin(tmp_path / "a.bin")
    assert images[0, 5, 7].tolist() == [200, 100, 50]
    assert images[1, 5, 7].tolist() == [1, 2, 3]
    assert issame.tolist() == [False]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [bytes, bytearray, lambda data: np.frombuffer(data, np.uint8)])
def test_every_pickle_protocol_and_type_of_buffer_is_read(tmp_path, protocol, wrap):
    content = ([wrap(png()), wrap(png((9, 8, 7)))], [np.bool_(True)])
    (tmp_path / "a.bin").write_bytes(pickle.dumps(content, protocol))
    images, issame = load_bin(tmp_path / "a.bin")
    assert images[:, 0, 0].tolist() == [[200, 100, 50], [9, 8, 7]]
    assert issame.tolist() == [True]


@pytest.mark.parametrize("dtype", ["bool", "<i8", ">i4", "u1"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_issame_may_be_an_array_of_any_byte_order(tmp_path, dtype, protocol):
    issame = np.array([1, 0, 1], dtype=dtype)
    (tmp_path / "a.bin").write_bytes(pickle.dumps(([png()] * 6, issame), protocol))
    assert load_bin(tmp_path / "a.bin")[1].tolist() == [True, False, True]


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "posix.system": pickle.dumps(Calls(os.system, "touch broken-in")),
    "os.system": b"cos\nsystem\n(S'touch broken-in'\ntR.",
    "builtins.eval": pickle.dumps(Calls(eval, "open('broken-in', 'w')")),
    "__builtin__.eval": b'c__builtin__\neval\n(S\'open("broken-in", "w")\'\ntR.',
    "builtins.getattr": pickle.dumps(Calls(getattr, "broken", "upper")),
    "numpy.load": pickle.dumps(Calls(np.load, "broken-in")),
    "numpy.core.multiarray.fromfile": b"cnumpy.core.multiarray\nfromfile\n(S'broken-in'\ntR.",
    "builtins.dict.fromkeys": b"\x80\x04\x8c\x08builtins\x8c\rdict.fromkeys\x93.",  # an attribute
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_forbidden_name_is_refused_and_told(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("evil.bin").write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match=f"evil.bin .* {name}"):
        load_bin("evil.bin")
    assert os.listdir() == ["evil.bin"]


@pytest.mark.parametrize(
    "content",
    [
        Calls(np.ndarray, (1,), np.dtype("O"), b"8 bytes."),  # NumPy itself would follow this pointer
        [Calls(np.ndarray, (1,), "O", b"8 bytes.")],
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "O")]),
        np.zeros(2, dtype="V8"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_numpy_is_never_given_a_dtype_of_the_file(tmp_path, content, protocol):
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=r"evil.bin is no verification set"):
        load_bin(tmp_path / "evil.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no verification set"),
        (b"not a pickle", "no verification set"),
        ((BINS / "py3.bin").read_bytes()[:5000], "no verification set"),
        (pickle.dumps([1, 2, 3]), r"does not hold \(images, issame\)"),
        (pickle.dumps((1, 2)), r"does not hold \(images, issame\)"),
        (pickle.dumps(([], [])), "0 images for 0 pairs"),
        (pickle.dumps(([png()] * 3, [True])), "3 images for 1 pairs, expected two a pair"),
        (pickle.dumps(([png()] * 2, [7])), "issame has to hold one boolean a pair"),
        (pickle.dumps(([png()] * 2, [None])), "issame has to hold one boolean a pair"),
        (
            pickle.dumps(([png(), png(), png(), b"no image"], [True, False])),
            r"image 3 \(pair 1\): its 8 bytes",
        ),
        (pickle.dumps(([png(), b""], [True])), r"image 1 \(pair 0\): its 0 bytes"),
        (
            pickle.dumps(([png(), png()[:-12]], [True])),
            r"image 1 \(pair 0\): its \d+ bytes are no whole image",
        ),
        (pickle.dumps(([png(), "text"], [True])), r"image 1 \(pair 0\): expected .* got str"),
        (
            pickle.dumps(([png(), png(height=112, width=96)], [True])),
            r"image 1 \(pair 0\): it is 96x112, expected",
        ),
        (
            pickle.dumps(([png(), png(height=96)], [True])),
            r"image 1 \(pair 0\): it is 112x96, expected a square",
        ),
    ],
)
def test_a_damaged_set_is_named_with_what_is_wrong(tmp_path, content, message):
    (tmp_path / "bad.bin").write_bytes(content)
    with pytest.raises(ValueError, match=f"bad.bin.*{message}"):
        load_bin(tmp_path / "bad.bin")


def test_square_images_of_another_size_are_resized(tmp_path):
    ramp = np.repeat(np.linspace(0, 255, 224).astype(np.uint8)[None, :, None], 224, axis=0).repeat(3, axis=2)
    data = cv2.imencode(".png", ramp)[1].tobytes()
    save_bin(tmp_path / "a.bin", [data, png(height=56, width=56)], [False])
    images, _ = load_bin(tmp_path / "a.bin")
    assert np.abs(images[0, 50, :, 0] - np.linspace(0, 255, 112)).max() < 2
    assert (images[1] == (200, 100, 50)).all()


@pytest.mark.parametrize(
    ("issame", "message"),
    [
        ([True, False] * 3, "6 items cannot be split into 10 folds"),
        ([True] * 12, "all 12 pairs are of the same person"),
    ],
)
def test_a_set_that_cannot_be_scored_is_told_when_it_is_loaded(tmp_path, issame, message):
    save_bin(tmp_path / "few.bin", [png()] * (2 * len(issame)), issame)
    with pytest.raises(ValueError, match=f"few.bin: {message}"):
        load_set(tmp_path / "few.bin")
    assert len(load_bin(tmp_path / "few.bin")[1]) == len(issame)


def test_a_missing_set_is_told_with_what_is_there(tmp_path):
    save_bin(tmp_path / "agedb_30.bin", [png()] * 2, [True])
    with pytest.raises(FileNotFoundError, match=r"did you mean 'agedb_30.bin'\? .* holds agedb_30.bin"):
        load_bin(tmp_path / "agedb30.bin")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_bin(tmp_path / "nowhere" / "lfw.bin")


# --------------------------------------------------------------------------------------------------- features


class Fake(nn.Module):
    """A cheap network that sees position, colour and, in training mode, the other images of its batch."""

    def __init__(self, num_features=8):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3 * 7 * 7, num_features)
        generator = torch.Generator().manual_seed(0)
        self.norm.running_mean.copy_(torch.randn(3, generator=generator))
        for parameter in self.linear.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, images):
        assert images.shape[1:] == (3, 112, 112)
        return self.linear(nn.functional.avg_pool2d(self.norm(images), 16).flatten(1))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (7, 112, 112, 3), dtype=np.uint8)


def test_features_are_those_of_the_network_on_normalised_pixels(images):
    backbone = Fake().eval()
    plain, _ = extract(backbone, images, batch_size=3)
    pixels = (torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    assert (plain.shape, plain.dtype) == ((7, 8), np.float32)
    assert np.allclose(plain, backbone(pixels.float()).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_the_flipped_view_is_the_mirror_image(images):
    _, flip = extract(Fake(), images)
    mirrored, _ = extract(Fake(), np.ascontiguousarray(images[:, :, ::-1]))
    assert np.allclose(flip, mirrored, atol=1e-6)


def test_a_bgr_network_gets_bgr(images):
    backbone = Fake()
    rgb, _ = extract(backbone, np.ascontiguousarray(images[..., ::-1]))
    backbone.input_order = "BGR"
    bgr, _ = extract(backbone, images)
    assert np.array_equal(rgb, bgr)
    backbone.input_order = "GRB"
    with pytest.raises(ValueError, match="input_order is 'GRB', allowed: RGB, BGR"):
        extract(backbone, images)


def test_every_module_returns_to_its_mode_even_after_a_failure(images):
    backbone = Fake().train()
    backbone.norm.eval()  # frozen statistics
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    extract(backbone, images)
    assert (backbone.training, backbone.linear.training, backbone.norm.training) == (True, True, False)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    backbone.linear = nn.Linear(5, 5)
    with pytest.raises(RuntimeError):
        extract(backbone, images)
    assert (backbone.training, backbone.norm.training) == (True, False)


def test_features_do_not_depend_on_the_batch_size_and_repeat_bit_for_bit(images):
    whole = extract(Fake().train(), images, batch_size=7)
    for a, b in zip(whole, extract(Fake(), images, batch_size=2)):
        assert np.allclose(a, b, atol=1e-6)
    for a, b in zip(whole, extract(Fake(), images, batch_size=7)):
        assert np.array_equal(a, b)


def test_precision_changes_the_arithmetic_and_little_else(images):
    exact, _ = extract(Fake(), images)
    for precision, tolerance in (("bf16", 0.05), ("fp16", 0.01)):
        rough, _ = extract(Fake(), images, precision=precision)
        assert rough.dtype == np.float32
        error = np.abs(rough - exact).max() / np.abs(exact).max()
        assert 0 < error < tolerance


def test_unusable_requests_are_errors(images):
    for bad in (images[:, :96], images.astype(np.float32), images[0], images[:0]):
        with pytest.raises(ValueError, match="faces aligned by five landmarks"):
            extract(Fake(), bad)
    with pytest.raises(ValueError, match="precision 'pf16'; did you mean 'fp16'"):
        extract(Fake(), images, precision="pf16")
    with pytest.raises(ValueError, match="batch_size is 0"):
        extract(Fake(), images, batch_size=0)


def test_verify_is_evaluate_on_the_sum_of_both_views():
    images, issame = load_bin(BINS / "py3.bin")
    result = verify(Fake(), images, issame)
    plain, flip = extract(Fake(), images)
    expected = evaluate(normalise(plain.astype(np.float64) + flip), issame)
    assert np.array_equal(result.accuracy, expected.accuracy)
    lengths = [*np.linalg.norm(plain, axis=1), *np.linalg.norm(flip, axis=1)]
    assert result.xnorm == pytest.approx(np.mean(lengths), rel=1e-6)
    assert expected.xnorm is None


# ---------------------------------------------------------------------------------------------- several ranks

NUM_IMAGES = (7, 2, 1)  # divided by neither 2 nor 3; fewer than ranks


def extract_on_rank(images: np.ndarray) -> dict:
    wrapped = DistributedDataParallel(Fake().train())  # its own forward would wait for ranks that are done
    found = {n: extract(wrapped, images[:n], batch_size=2) for n in NUM_IMAGES}
    return found | {"xnorm": verify(Fake(), *load_bin(BINS / "py3.bin"), batch_size=3).xnorm}


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_ranks_gives_every_rank_the_features_of_one_process(images, world_size):
    expected = {n: extract(Fake(), images[:n]) for n in NUM_IMAGES}
    xnorm = verify(Fake(), *load_bin(BINS / "py3.bin")).xnorm
    for found in run_ranks(world_size, extract_on_rank, images):
        for n in NUM_IMAGES:
            assert np.allclose(found[n], expected[n], atol=1e-6)
        assert found["xnorm"] == pytest.approx(xnorm, rel=1e-6)


# ---------------------------------------------------------------------------------------------------- scripts


def run(*command, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network with random weights, in a file."""
    torch.manual_seed(0)
    shape = {"blocks": (1, 1, 1, 1), "scale": 1}
    path = tmp_path_factory.mktemp("model") / "model.pt"
    backbone = get_model("mbf", num_features=32, **shape)
    save_backbone(path, backbone, network="mbf", num_features=32, network_args=shape)
    return path


def test_the_script_reports_every_set_from_any_directory_on_one_rank_or_two(tmp_path, model):
    data = (BINS / "py2.bin", BINS / "numpy.bin")
    arguments = (ROOT / "eval" / "verification.py", "--model", model, "--data", *data, "--batch-size", 7)
    alone = run(*arguments, "--out", "one.json", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert all(word in alone.stdout for word in ("py2", "numpy", "mean", "XNorm", "±"))
    one = json.loads((tmp_path / "one.json").read_text())
    assert one["settings"]["network"] is None
    assert one["settings"]["input_order"] == "RGB"
    assert str(torch.__version__).startswith(one["versions"]["torch"])
    assert list(one["sets"]) == ["py2", "numpy"]
    score = one["sets"]["py2"]
    assert score["accuracy"] == pytest.approx(np.mean(score["fold_accuracy"]))
    assert f"{100 * score['accuracy']:.2f} ± {100 * score['std']:.2f}" in alone.stdout

    launch = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    together = run(*launch, *arguments, "--out", "folder", cwd=tmp_path)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("XNorm") == 1  # rank 0 alone reports
    two = json.loads((tmp_path / "folder" / "verification.json").read_text())
    assert two["settings"]["ranks"] == 2
    assert two["sets"]["py2"]["fold_accuracy"] == score["fold_accuracy"]
    assert two["sets"]["py2"]["xnorm"] == pytest.approx(score["xnorm"], rel=1e-5)


def test_the_script_tells_a_mistake_in_one_line(tmp_path, model):
    (tmp_path / "evil.bin").write_bytes(HOSTILE["os.system"])
    for name, message in (("evil.bin", "os.system"), ("evill.bin", "did you mean 'evil.bin'?")):
        failed = run(ROOT / "eval" / "verification.py", "--model", model, "--data", name, cwd=tmp_path)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: ")
        assert failed.stderr.count("\n") == 1
        assert message in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["evil.bin"]


@pytest.fixture
def faces(tmp_path):
    """Four images of two people, in LFW's layout."""
    colours = {"Ann": [(10, 0, 0), (20, 0, 0)], "Bob_B": [(0, 0, 30), (0, 0, 40)]}
    for name, each in colours.items():
        (tmp_path / name).mkdir()
        for number, colour in enumerate(each, start=1):
            (tmp_path / name / f"{name}_{number:04d}.png").write_bytes(png(colour))
    return tmp_path


def make_bin(folder, pairs, *more):
    return run(
        ROOT / "tools" / "make_bin.py", "--images", ".", "--pairs", pairs, "--out", "x.bin", *more, cwd=folder
    )


LFW_PAIRS = "1\t1\nAnn\t1\t2\nAnn\t2\tBob_B\t1\n"
CSV_PAIRS = (
    "path1,path2,issame\nAnn/Ann_0001.png,Ann/Ann_0002.png,1\nAnn/Ann_0002.png,Bob_B/Bob_B_0001.png,False\n"
)


@pytest.mark.parametrize(("name", "text"), [("pairs.txt", LFW_PAIRS), ("pairs.csv", CSV_PAIRS)])
def test_a_folder_and_a_list_of_pairs_become_a_set(faces, name, text):
    (faces / name).write_text(text)
    done = make_bin(faces, name)
    assert done.returncode == 0, done.stderr
    assert "2 pairs, 1 of the same person, 3 different images" in done.stdout
    images, issame = load_bin(faces / "x.bin")
    assert images[:, 0, 0].tolist() == [[10, 0, 0], [20, 0, 0], [20, 0, 0], [0, 0, 30]]
    assert issame.tolist() == [True, False]


def test_a_crop_is_cut_out_of_larger_images(faces):
    for number in (1, 2):
        image = np.zeros((250, 250, 3), np.uint8)
        image[44:184, 54:194] = (50, 100, 200)  # BGR
        cv2.imwrite(str(faces / "Ann" / f"Ann_000{number}.png"), image)
    (faces / "pairs.txt").write_text("Ann 1 2\n")
    refused = make_bin(faces, "pairs.txt")
    assert refused.returncode == 1
    assert "is 250x250, expected an aligned face" in refused.stderr
    assert make_bin(faces, "pairs.txt", "--crop", 54, 44, 194, 184).returncode == 0
    images, _ = load_bin(faces / "x.bin")
    assert np.abs(images.astype(int) - (200, 100, 50)).max() <= 3  # what JPEG may change


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("pairs.txt", "Ann 1\n", "line 1: 'Ann 1', expected `name n m`"),
        ("pairs.txt", "Ann 1 9\n", "Ann_0009.jpg"),
        ("pairs.txt", "10 300\n", "lists no pairs"),
        ("pairs.csv", "a.png,b.png,maybe\n", "line 1: 'a.png,b.png,maybe', expected path1,path2,issame"),
    ],
)
def test_a_list_that_does_not_fit_is_told_with_its_line(faces, name, text, message):
    (faces / name).write_text(text)
    failed = make_bin(faces, name)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert message in failed.stderr
    assert not (faces / "x.bin").exists()
