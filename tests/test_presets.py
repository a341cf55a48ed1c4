"""Presets: each has its experiment card, is what its name says, and leaves what it builds on as it is."""

import ast
import importlib
import re
import runpy

import pytest

from backbones import MODEL_NAMES
from configs import base
from losses import LOSSES, REGULARIZERS, build_loss, build_perturbation, build_regularizer
from utils import config as config_module
from utils.config import get_config
from utils.frozen import to_builtin
from utils.run_info import ROOT
from utils.settings import DEFAULTS

PRESETS = sorted({path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "base"})
DEMOS = [name for name in PRESETS if name.startswith("demo_")]
# Data -> its number of people and of images.
PUBLIC_DATA = {
    "casia": (10572, 490623),
    "ms1mv2": (85742, 5822653),
    "ms1mv3": (93431, 5179510),
    "wf4m": (205990, 4235242),
    "wf12m": (617970, 12720066),
}
PUBLISHED = [name for name in PRESETS if name.split("_")[0] in PUBLIC_DATA]
# Presets whose name leaves the method out: ARoFace's own, and the first one here.
METHODS = {
    "ms1mv2_r100": "arcface_aroface",
    "ms1mv3_r100": "arcface_aroface",
    "wf4m_r100": "adaface_aroface",
    "wf12m_r100": "adaface_aroface",
    "casia_r50": "cosface",
}


def card(name: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))


def methods(cfg) -> list[str]:
    """The names of loss, regularisers and perturbation of a loaded config."""
    return [cfg.loss, *(name for name, _ in cfg.regularizers), *(["aroface"] if cfg.aroface else [])]


@pytest.mark.parametrize("name", PRESETS)
def test_preset_loads_from_anywhere_and_has_an_experiment_card(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = get_config(name)
    assert cfg.name == name
    assert cfg.output == str(ROOT / "work_dirs" / name)
    assert cfg.rec == "synthetic" or cfg.rec.startswith(str(ROOT / "data"))
    assert f"train_v2.py configs/{name} " in card(name).replace("\n", " ")
    assert "Hardware:" in card(name)
    assert "Measured by us" in card(name)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_builds_its_loss_regularizers_and_perturbation_with_its_settings(name):
    cfg = get_config(name)
    assert cfg.network in MODEL_NAMES
    built = [build_loss(cfg.loss, **cfg.loss_args)]
    built += [build_regularizer(term, **hyper) for term, hyper in cfg.regularizers]
    built += [build_perturbation(**cfg.aroface)] if cfg.aroface is not None else []
    assert len(built) == len(methods(cfg))


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_of_public_data_is_what_its_name_says_and_tells_the_published_numbers(name):
    cfg = get_config(name)
    data, network, *method = name.split("_")
    assert (cfg.num_classes, cfg.num_image) == PUBLIC_DATA[data]
    assert cfg.network == {"ir50": "ir_50", "r50": "ir_50", "ir101": "ir_101", "r100": "r100"}[network]
    assert "_".join(methods(cfg)) == ("_".join(method) or METHODS[name])
    published = card(name).split("Published", 1)[1].split("Measured")[0]
    assert re.search(r"\d\d\.\d", published)
    assert "Source:" in card(name)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "_r100" in name])
def test_large_presets_train_as_aroface_does_on_four_gpus(name):
    cfg = get_config(name)
    assert 4 * cfg.batch_size * cfg.gradient_acc == 2048
    assert cfg.lr * 2048 / cfg.lr_reference_batch == pytest.approx(0.2)
    assert (cfg.optimizer, cfg.momentum, cfg.weight_decay, cfg.scheduler) == ("sgd", 0.9, 5e-4, "poly")
    assert (cfg.poly_power, cfg.warmup_epoch, cfg.grad_clip, cfg.precision) == (1, 0, 5, "fp16")
    assert cfg.num_epoch == (28 if name.startswith("ms1mv2") else 20)
    assert cfg.aroface is None or (cfg.aroface.ratio, cfg.aroface.steps) == (0.75, 1)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "_r100" not in name])
def test_small_presets_train_as_adaface_does_on_four_gpus(name):
    cfg = get_config(name)
    assert 4 * cfg.batch_size * cfg.gradient_acc == 512
    assert cfg.lr * 512 / cfg.lr_reference_batch == pytest.approx(0.1)
    assert (cfg.scheduler, cfg.milestones, cfg.lr_decay) == ("multistep", (12, 20, 24), 0.1)
    assert (cfg.weight_decay, cfg.no_decay_norm_bias, cfg.precision) == (5e-4, True, "fp16")
    assert (cfg.crop_prob, cfg.low_res_prob, cfg.photometric_prob) == (0.2, 0.2, 0.2)
    assert cfg.num_epoch == (40 if name.startswith("casia_ir50") else 26)


def test_a_demo_trains_the_loss_or_the_addition_that_it_is_called_after():
    taught = {name: methods(get_config(name)) for name in DEMOS}
    assert set(taught) <= {f"demo_{name}" for name in [*LOSSES, *REGULARIZERS, "aroface"]}
    for name, (loss, *added) in taught.items():
        method = name[len("demo_") :]
        assert [loss, *added] == ([method] if method in LOSSES else ["cosface", method])


@pytest.mark.parametrize("name", DEMOS)
def test_demos_differ_in_the_loss_alone_and_those_of_additions_in_the_addition_alone(name):
    cfg = get_config(name)
    of_loss = name[len("demo_") :] in LOSSES
    other = get_config("demo_softmax" if of_loss else "demo_cosface")
    allowed = {"loss", "loss_args"} if of_loss else {"regularizers", "aroface"}
    assert {key for key in cfg if cfg[key] != other[key]} <= {"name", "output"} | allowed


def test_a_preset_leaves_the_one_that_it_builds_on_as_it_is():
    for name in PRESETS:
        get_config(name)
    for name in PRESETS:
        imported = importlib.import_module(f"configs.{name}").config
        assert imported == runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["config"], name


def test_a_preset_that_changes_the_defaults_in_place_is_refused_and_leaves_no_trace(tmp_path, monkeypatch):
    path = tmp_path / "configs" / "in_place.py"
    path.parent.mkdir()
    path.write_text('from configs.base import config\n\nconfig.lr = 0.777\nconfig.network = "r18"\n')
    monkeypatch.setattr(
        config_module, "ROOT", tmp_path
    )  # so that the file is one of this repository's presets
    with pytest.raises(ValueError, match=r"in_place.py changes the config of configs/base.py in place"):
        get_config(path)
    assert to_builtin(base.config) == DEFAULTS
