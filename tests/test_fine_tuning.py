"""Runs of train_v2.py that start from trained weights: what they begin with, learn, keep, and go on from."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from backbones import load_backbone, save_backbone
from backbones.registry import get_model
from eval.features import extract
from eval.kfold import evaluate, load_set
from eval.metrics import normalise
from eval.readers.bin_sets import save_bin
from eval.verification_report import verify
from helpers.rank_runs import train_on_ranks
from helpers.train_runs import train, write_faces
from tools.demo.album import jpeg
from tools.make_demo import FIRST_UNSEEN, GOOD, TRAIN, photographs
from training import checkpoint

# Masks and dropped paths would be drawn by each rank for itself.
VIT = dict(width=32, depth=2, mask_ratio=0.0, drop_path_rate=0.0)
NETWORK = ["network=vit_t", f"network_args={VIT}", "embedding_size=16"]
RUN = "batch_size=4 num_steps=6 frequent=1 lr=0.05 num_workers=0 precision=fp32".split()
RUN += ["tensorboard=false", "report=false"]
COMMON = ["configs/synthetic", *NETWORK, *RUN, "num_classes=None", "num_image=None", "channels_last=false"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return write_faces(tmp_path_factory.mktemp("data") / "faces")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Weights of a network that sees BGR, with running statistics of its own."""
    torch.manual_seed(7)
    network = get_model("vit_t", num_features=16, **VIT)
    network(torch.rand(16, 3, 112, 112) * 2 - 1)
    path = tmp_path_factory.mktemp("weights") / "source.pt"
    names = dict(network="vit_t", num_features=16, network_args=VIT, input_order="BGR")
    save_backbone(path, network, **names)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def outcomes(faces, source, folder) -> dict[str, tuple[int, str]]:
    """(exit code, output) of the short runs of this file, in one start."""
    lines = {case: [*whole(case, faces, source), f"output={folder}/{case}"] for case in EVERYTHING}
    lines |= {
        case: [*common, f"output={folder}/mistakes"]
        for case, common in mistakes(faces, source, folder).items()
    }
    lines |= stuck(faces, source, folder) | ending(faces, source, folder)
    return dict(zip(lines, train(*lines.values(), timeout=240)))


def metrics(run: Path, kind: str) -> list[dict]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == other


# ---------------------------------------------------------------- going on exactly

EVERYTHING = {
    # adapters, teacher, warm-up, best model, ARoFace
    "adapted": "lora={rank:2} init_head=class_means teacher=SOURCE "
    "distillation={weight:0.5,low_res:0.5} head_warmup_epoch=0.3 lr_backbone=0.02 layer_decay=0.8 "
    "gradient_acc=2 aroface={ratio:0.5} keep_best=true patience=5 optimizer=adamw",
    "frozen": "freeze=[patch_embed,blocks.0,head] freeze_bn=true init_head=class_means "
    "sample_rate=0.5 dropout=0.2",
}


def check_adapters(run: Path, source: Path) -> None:
    """The checkpoint holds weights and adapters, the model what they are worth together."""
    shared, _ = checkpoint.load(run / "checkpoints", 0, 5, 6)
    state, model = shared["backbone"], load_backbone(run / "model.pt").state_dict()
    before, key = load_backbone(source).state_dict(), "blocks.1.mlp.fc1"
    up, down = (state[f"{key}.parametrizations.weight.0.{part}"] for part in ("up", "down"))
    assert torch.equal(state[f"{key}.parametrizations.weight.original"], before[f"{key}.weight"])
    assert up.abs().max() > 0
    assert torch.allclose(model[f"{key}.weight"], before[f"{key}.weight"] + up @ down, atol=1e-7)
    unchanged = (f"{key}.bias", "feature.1.running_mean")
    assert all(torch.equal(model[name], before[name]) for name in unchanged)


def whole(case: str, faces: Path, source: Path) -> list[str]:
    settings = EVERYTHING[case].replace("SOURCE", str(source)).split()
    run = [*COMMON, f"rec={faces}", f"pretrained={source}", *settings, "save_all_states=true"]
    return [*run, "checkpoint_every=3", "verbose=2", "val_targets=[pairs]"]


@pytest.fixture(scope="module")
def resumed(outcomes, faces, source, folder) -> dict[str, tuple[int, str]]:
    """The same runs, from their third step on; and one of them with other weights."""
    lines = {}
    moved = str(shutil.copy(source, folder / "moved.pt"))  # the path may change, the content not
    for case in EVERYTHING:
        code, output = outcomes[case]
        assert code == 0, output
        shutil.copytree(folder / case, folder / f"{case}_resumed")
        shutil.rmtree(folder / f"{case}_resumed/checkpoints/step_00000006")
        run = [argument.replace(str(source), moved) for argument in whole(case, faces, source)]
        lines[case] = [*run, f"output={folder}/{case}_resumed", "resume=true"]
    network = load_backbone(source)
    network.pos_embed.data[0, 0, 0] += 1
    save_backbone(folder / "other.pt", network, network="vit_t", num_features=16, network_args=VIT)
    lines = {"other weights": [*lines[case], f"pretrained={folder}/other.pt"]} | lines
    return dict(zip(lines, train(*lines.values(), timeout=240)))


def test_a_run_does_not_go_on_from_other_weights(resumed):
    code, output = resumed["other weights"]
    assert code == 1
    assert "of a run with content of pretrained crc32" in output.splitlines()[-1]


@pytest.mark.parametrize("case", EVERYTHING)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(case, resumed, folder, source):
    code, output = resumed[case]
    assert code == 0, output
    runs = folder / case, folder / f"{case}_resumed"
    one, two = ([line["loss"] for line in metrics(run, "train")] for run in runs)
    assert one == two
    for one, two in zip(*(checkpoint.load(run / "checkpoints", 0, 5, 6) for run in runs)):
        assert_same(one, two)
    if "lora={rank:2}" in EVERYTHING[case]:
        check_adapters(runs[0], source)
    for name in ("model.pt", *(["best.pt"] if "keep_best=true" in EVERYTHING[case] else [])):
        one, two = (torch.load(run / name)["state_dict"] for run in runs)
        assert_same(one, two)
        assert not any("parametrizations" in key for key in one)
        assert load_backbone(runs[0] / name).input_order == "BGR"


# ---------------------------------------------------------------- several ranks


def test_two_ranks_train_to_the_weights_of_one_with_the_whole_batch(faces, source, tmp_path):
    settings = f"pretrained={source} teacher={source} init_head=class_means freeze_bn=true "
    settings += "lora={rank:2} head_warmup_epoch=0.2 layer_decay=0.9 distillation={weight:0.5}"
    run = [*COMMON, f"rec={faces}", *settings.split(), "save_all_states=false", "val_targets=[]"]
    alone = [*run, "batch_size=8", f"output={tmp_path}/one"]
    two = [*run, "batch_size=4", f"output={tmp_path}/two"]
    accumulated = [*run, "batch_size=4", "gradient_acc=2", f"output={tmp_path}/acc"]
    frozen = [*run[:-1], "val_targets=[pairs]", "freeze=[*]", "batch_size=4", f"output={tmp_path}/frozen"]
    for ranks in train_on_ranks([alone], [two, two], [accumulated], [frozen, frozen], timeout=150):
        for code, output in ranks:
            assert code == 0, output
    one, *others = (load_backbone(tmp_path / n / "model.pt").state_dict() for n in ("one", "two", "acc"))
    moved = load_backbone(source).state_dict()["feature.2.weight"] - one["feature.2.weight"]
    assert moved.abs().max() > 1e-4
    for other in others:
        assert all(torch.allclose(one[key], other[key], rtol=1e-4, atol=2e-6) for key in one)
    assert_same(load_backbone(tmp_path / "frozen/model.pt").state_dict(), load_backbone(source).state_dict())


# ---------------------------------------------------------------- what it is good for


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """Photographs of people who do not exist: old ones, new ones, and pairs of others."""
    folder = tmp_path_factory.mktemp("people")
    for group, first, count in (("old", 0, 40), ("new", 1000, 24)):
        for person in range(first, first + count):
            (folder / group / f"{person:04d}").mkdir(parents=True)
            for i, image in enumerate(photographs((person, {TRAIN: 8}), 0)[TRAIN]):
                cv2.imwrite(str(folder / group / f"{person:04d}/{i}.jpg"), image[..., ::-1])
    unseen = [photographs((FIRST_UNSEEN + i, {GOOD: 3}), 0)[GOOD] for i in range(60)]
    pairs = [image for i in range(60) for image in (*unseen[i][:2], unseen[i][0], unseen[(i + 1) % 60][2])]
    save_bin(folder / "pairs.bin", list(map(jpeg, pairs)), [True, False] * 60)
    return folder


@pytest.fixture(scope="module")
def runs(people) -> Path:
    """A network of the old people; the same settings on the new ones, from scratch, tuned, and frozen."""
    args = dict(width=64, depth=2, mask_ratio=0.0, drop_path_rate=0.0)
    common = ["configs/synthetic", "network=vit_t", f"network_args={args}", "embedding_size=64"]
    common += "num_classes=None num_image=None loss=cosface loss_args={s:16,m:0.2} optimizer=adamw".split()
    common += "weight_decay=0.05 lr=0.002 batch_size=16 num_workers=0 precision=fp32".split()
    common += ["tensorboard=false", "report=false"]
    common += [f"val_targets=[{people}/pairs.bin]", "frequent=50"]
    new = [*common, f"rec={people}/new", "num_steps=20", "verbose=10"]
    start = [f"pretrained={people}/trained/model.pt", "init_head=class_means"]
    outcomes = train(
        [*common, f"rec={people}/old", "num_steps=90", "verbose=0", f"output={people}/trained"],
        [*new, f"output={people}/scratch"],
        [*new, *start, "freeze_bn=true", "lr_backbone=0.0002", f"output={people}/tuned"],
        [*new, *start, "freeze=[*]", f"output={people}/frozen"],
        [
            *[
                *common,
                f"rec={people}/old",
                "num_steps=60",
                "verbose=0",
                "init_head=class_means",
                "freeze=[head]",
            ],
            *[f"teacher={people}/trained/model.pt", "distillation.weight=10", f"output={people}/compatible"],
        ],
        timeout=400,
    )
    for code, output in outcomes:
        assert code == 0, output
    return people


def accuracies(run: Path) -> list[float]:
    return [line["accuracy"] for line in metrics(run, "eval")]


def test_fine_tuning_to_new_people_starts_above_and_ends_no_lower_than_from_scratch(runs):
    scratch, tuned = accuracies(runs / "scratch"), accuracies(runs / "tuned")
    assert len(scratch) == len(tuned) == 2
    assert tuned[0] > scratch[0] + 0.1
    assert tuned[-1] >= scratch[-1]


def test_with_a_frozen_backbone_and_class_means_all_verifications_are_the_pretrained_one(runs):
    network = load_backbone(runs / "trained/model.pt")
    expected = verify(network, *load_set(runs / "pairs.bin"), batch_size=16)
    assert accuracies(runs / "frozen") == [pytest.approx(expected.mean, abs=0)] * 2
    for line in metrics(runs / "frozen", "eval"):
        assert line["xnorm"] == pytest.approx(expected.xnorm, abs=0)
    assert_same(load_backbone(runs / "frozen/model.pt").state_dict(), network.state_dict())


def test_pairs_of_an_old_and_a_new_embedding_match_if_the_new_network_was_trained_for_it(runs):
    images, same = load_set(runs / "pairs.bin")
    old, new, other = (
        normalise(np.sum(extract(load_backbone(runs / name / "model.pt"), images), axis=0).astype(np.float64))
        for name in ("trained", "compatible", "tuned")
    )
    mixed, of_old = old.copy(), evaluate(old, same).mean
    mixed[1::2] = new[1::2]
    assert evaluate(mixed, same).mean > 0.65
    assert evaluate(mixed, same).mean > of_old - 0.1
    # No two networks agree by chance: the cosine with the old embedding of the same image.
    torch.manual_seed(9)
    args = dict(width=64, depth=2, mask_ratio=0.0, drop_path_rate=0.0)
    stranger = normalise(extract(get_model("vit_t", num_features=64, **args), images)[0].astype(np.float64))
    assert (old * new).sum(1).mean() > 0.7
    assert (old * other).sum(1).mean() > 0.7
    assert (old * stranger).sum(1).mean() < 0.3


def test_class_means_begin_with_a_smaller_loss_than_random_centres(runs):
    frozen, scratch = (metrics(runs / name, "train")[-1]["loss"] for name in ("frozen", "scratch"))
    assert frozen < scratch


# ---------------------------------------------------------------- mistakes


MISTAKES = {
    "missing": ("pretrained=/no/weights.pt", "no model file '/no/weights.pt'"),
    "no weights": ("pretrained=FOLDER/text.pt", "text.pt is no model file"),
    "other network": ("WEIGHTS network_args.width=64", "is another network than network='vit_t'"),
    "contradiction": ("WEIGHTS input_order=RGB", "says that its network takes BGR, not RGB"),
    "pattern": ("WEIGHTS freeze=[blcks.0]", "freeze: 'blcks.0' is no part of this network"),
    "nothing learns": ("WEIGHTS freeze=[*,head] init_head=class_means", "leaves nothing that learns"),
    "lora": ("WEIGHTS lora={rnk:3}", "lora has no setting 'rnk'; did you mean 'rank'"),
    "lora's layers": ("WEIGHTS lora={layers:[conv1]}", "'conv1' is no linear layer or convolution"),
    "centres": ("init_head=FOLDER/centres.npy", "holds 4 class centres, but this run has 5"),
    "centres missing": ("init_head=means", "no model file"),
    "teacher": ("teacher=SOURCE embedding_size=8", "cannot be compared with embedding_size=8"),
    "distillation": ("teacher=SOURCE distillation={wieght:1}", "did you mean 'weight'"),
}  # settings, and what the error says


def mistakes(faces: Path, source: Path, folder: Path) -> dict[str, list[str]]:
    (folder / "text.pt").write_text("no weights")
    np.save(folder / "centres.npy", np.zeros((4, 16)))
    common = [*COMMON, f"rec={faces}", "val_targets=[]", "save_all_states=false"]
    words = {"WEIGHTS": f"pretrained={source}", "SOURCE": str(source), "FOLDER": str(folder)}
    lines = {}
    for name, (settings, _) in MISTAKES.items():
        for word, value in words.items():
            settings = settings.replace(word, value)
        lines[name] = [*common, *settings.split()]
    return lines


def test_mistakes_are_one_line_before_anything_is_written(outcomes, folder):
    for name, (_, message) in MISTAKES.items():
        code, output = outcomes[name]
        line = output.strip().splitlines()[-1]
        assert code == 1, f"{name}: {output}"
        assert line.startswith("error: "), f"{name}: {output}"
        assert message in line, f"{name}: {line}"
    assert {path.name for path in (folder / "mistakes").iterdir()} <= {"train.log", "run.lock"}


def stuck(faces: Path, source: Path, folder: Path) -> dict[str, list[str]]:
    run = [*COMMON, f"rec={faces}", f"pretrained={source}", f"teacher={source}", "val_targets=[]"]
    run += ["lora={rank:2,layers:[blocks.*]}", "distillation={low_res:1.0,sides:[4]}", "loss_args={s:1e38}"]
    run += ["max_skipped_steps=1", "save_all_states=false"]
    warming = [*run, "head_warmup_epoch=0.4", f"output={folder}/warming"]
    return {"warming": warming, "learning": [*run, f"output={folder}/learning"]}


def test_a_batch_that_stopped_the_run_is_kept_as_the_network_saw_it(outcomes, folder, source):
    """The student's view is drawn; in the warm-up of the head the backbone rests."""
    saved = {}
    for name in ("warming", "learning"):
        code, output = outcomes[name]
        assert code == 1
        assert "2 steps in a row were skipped" in output.splitlines()[-1], output
        (file,) = (folder / name).glob("skipped_step_*.pt")
        saved[name] = torch.load(file, weights_only=True)
        sharpness = saved[name]["images"].diff(dim=3).abs().mean()
        assert sharpness < 0.02  # seen as 4 x 4 pixels; 0.04 in the files
    assert "" in saved["warming"]["resting"]
    assert saved["warming"]["learning"] == []
    assert saved["learning"]["resting"] == ["feature.1", "feature.3"]
    assert "blocks.1.mlp.fc1.weight" in saved["learning"]["learning"]
    assert set(saved["learning"]["learning"]) <= load_backbone(source).state_dict().keys()


# ---------------------------------------------------------------- the end of a run that gets no better


def ending(faces: Path, source: Path, folder: Path) -> dict[str, list[str]]:
    run = [
        *COMMON,
        f"rec={faces}",
        f"pretrained={source}",
        "num_steps=12",
        "verbose=1",
        "val_targets=[pairs]",
    ]
    run += ["freeze=[*]", "init_head=class_means", "patience=3", "keep_best=true", "save_all_states=true"]
    run += [f"output={folder}/ending"]
    again = [*run, "resume=true"]
    return {"ending": run, "ended": again, "longer": [*again, "patience=5"]}


def test_a_run_without_a_better_verification_ends_early_and_keeps_its_best_model(outcomes, folder, source):
    (code, first), ended, longer = (outcomes[name] for name in ("ending", "ended", "longer"))
    assert code == 0, first
    # A frozen network is never better than at first: step 1, then three that are no better.
    assert "the run ends early: 3 verifications in a row were no better than that of step 1" in first
    assert "pairs" in first.split("the run ends early")[1]
    assert ended[0] == longer[0] == 0, ended[1] + longer[1]
    assert [line["step"] for line in metrics(folder / "ending", "eval")] == [1, 2, 3, 4, 5, 6]
    assert checkpoint.latest_step(folder / "ending/checkpoints") == 6
    assert_same(load_backbone(folder / "ending/best.pt").state_dict(), load_backbone(source).state_dict())
