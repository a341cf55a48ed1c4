"""Weights & Biases gets what TensorBoard gets, a resumed run goes on there, and its failure costs no run.

The package is optional and speaks to a server: a stand-in takes its place.
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from easydict import EasyDict

from reports.mirrors import open_mirrors
from utils.logging import RunLog, setup_logging


class Run:
    """What wandb.init returns."""

    def __init__(self, settings):
        self.settings, self.logged, self.is_finished, self.error = settings, [], False, None

    def log(self, values, step):
        if self.error:
            raise self.error
        self.logged.append((step, values))

    def finish(self):
        self.is_finished = True


@pytest.fixture
def wandb(monkeypatch):
    """The stand-in; its `runs` are those that were begun."""
    module = ModuleType("wandb")
    module.runs, module.refusal = [], None
    module.Image = lambda image: ("image", tuple(image.shape))

    def init(**settings):
        if module.refusal:
            raise module.refusal
        module.runs.append(Run(settings))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def settings(**changes):
    given = {"tensorboard": False, "using_wandb": True, "wandb_project": None, "wandb_entity": None}
    return EasyDict(given | changes)


def run_log(folder, first_step=0, **changes):
    folder.mkdir(exist_ok=True)
    setup_logging(folder, 0)
    mirrors = open_mirrors(settings(**changes), folder, first_step)
    return RunLog(folder, rank=0, total_steps=9, global_batch=4, first_step=first_step, mirrors=mirrors)


def test_it_gets_every_number_and_picture_under_the_name_of_the_folder(tmp_path, wandb):
    log = run_log(tmp_path / "mine", wandb_project="faces", lr=0.5)
    log.log_step(1, epoch=0.5, loss=2.0, lr=0.1, ce=1.5)
    result = SimpleNamespace(
        accuracy=torch.tensor([0.5, 1.0]), val=0.25, far=0.1, xnorm=None, rate_in_words=""
    )
    log.log_eval(1, {"lfw": result})
    log.log_pairs(1, "samples", (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)))
    log.close()
    log.close()
    (run,) = wandb.runs
    assert (run.settings["project"], run.settings["name"]) == ("faces", "mine")
    assert run.settings["config"]["lr"] == 0.5
    step, numbers = run.logged[0]
    assert step == 1
    assert {"train/loss": 2.0, "train/ce": 1.5}.items() <= numbers.items()
    assert run.logged[1][1]["accuracy/lfw"] == 0.75
    assert run.logged[2][1]["samples"][0] == "image"
    assert run.is_finished


def test_a_resumed_run_goes_on_and_a_new_one_is_another(tmp_path, wandb):
    for first_step in (0, 5, 0):
        run_log(tmp_path, first_step).close()
    first, resumed, new = (run.settings["id"] for run in wandb.runs)
    assert first == resumed
    assert new != first


def test_an_error_on_the_way_is_told_once_and_costs_no_run(tmp_path, wandb, capsys):
    log = run_log(tmp_path)
    wandb.runs[0].error = ConnectionError("the network is gone")
    for step in (1, 2, 3):
        log.log_step(step, epoch=0.5, loss=2.0, lr=0.1)
    log.close()
    out = capsys.readouterr().out
    assert out.count("the network is gone") == 1
    assert "step 3/9" in out


def test_who_may_not_in_is_told_before_the_first_step(tmp_path, wandb, monkeypatch):
    wandb.refusal = RuntimeError("no API key configured")
    with pytest.raises(ValueError, match=r"no API key configured.*wandb login.*WANDB_MODE=offline"):
        open_mirrors(settings(), tmp_path, 0)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install wandb, or using_wandb=false"):
        open_mirrors(settings(), tmp_path, 0)
