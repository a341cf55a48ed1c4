"""Loss and both gradients against numbers recorded from the public implementations, three steps each."""

from pathlib import Path

import numpy as np
import pytest
import torch

from losses import build_loss
from partial_fc import PartialFC
from utils.unit_vectors import normalise

GOLDENS = Path(__file__).parent / "goldens" / "losses"
STRAIGHT = "straight_through"
CASES = {
    "insightface_arcface": ("combined", {"margin_list": (1.0, 0.5, 0.0), "gradient": STRAIGHT}),
    "insightface_cosface": ("combined", {"margin_list": (1.0, 0.0, 0.4), "gradient": STRAIGHT}),
    "arcface_exact": ("arcface", {}),
    "cosface": ("cosface", {}),
    "arcface_focal": ("arcface", {}),
    "amsoftmax_focal": ("amsoftmax", {}),
    "mv_softmax_am": ("mv_softmax", {"kind": "am"}),
    "mv_softmax_arc": ("mv_softmax", {"kind": "arc"}),
    "curricularface": ("curricularface", {}),
    "npcface": ("npcface", {"a": 0.2, "m_hard": 0.5}),
    "circle": ("circle", {"gamma": 64.0}),
    "adaface": ("adaface", {"initial_mean": 10.0, "initial_std": 10.0}),
    "adaface_talpha1": ("adaface", {"t_alpha": 1.0}),
    "magface": ("magface", {"s": 32.0}),
}


def focal_of_the_batch_mean(cross_entropy: torch.Tensor) -> torch.Tensor:
    """The recorded focal loss: γ = 2 on the mean cross-entropy of the batch, not on each sample's."""
    return (1 - (-cross_entropy).exp()) ** 2 * cross_entropy


def through_normalisation(gradient: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """∂L/∂ŵ, which was recorded where the centres were normalised in place, as ∂L/∂w."""
    length = np.linalg.norm(centres, axis=1, keepdims=True)
    unit = centres / length
    return (gradient - unit * (unit * gradient).sum(1, keepdims=True)) / length


def further_numbers(head: PartialFC, embeddings: torch.Tensor, recorded, step: int) -> dict:
    """What this project has of the fields that only some files record: states, and parts of the loss."""
    norms = embeddings.detach().norm(dim=1)
    cos = (normalise(embeddings.detach()) * normalise(head.weight.detach())[recorded["y"][step]]).sum(1)
    cos = cos.clamp(-1 + 1e-3, 1 - 1e-3)  # as AdaFace's public code does; it moves one recorded logit by 0.1
    numbers = {
        "batch_mean": lambda: head.loss.quality.batch_mean,
        "batch_std": lambda: head.loss.quality.batch_std,
        "t": lambda: head.loss.t,
        "reg": lambda: head.loss.norm_term(norms).mean(),
        "target_logit": lambda: head.loss.own_logit(cos, norms, {}),
    }
    return {name: number() for name, number in numbers.items() if name in recorded.files}


def relative_error(value: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(value.detach().numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("engine", ["dense", "stream"])
@pytest.mark.parametrize("golden", CASES)
def test_loss_and_gradients_equal_the_public_implementation(golden, engine):
    recorded = np.load(GOLDENS / f"{golden}.npz")
    name, hyper = CASES[golden]
    num_classes, embedding_size = recorded["W"].shape
    head = PartialFC(build_loss(name, **hyper), embedding_size, num_classes, engine=engine, chunk_size=7)
    head.weight.data.copy_(torch.from_numpy(recorded["W"]))

    for step in range(3):
        embeddings = torch.from_numpy(recorded["E"][step]).requires_grad_()
        head.weight.grad = None
        loss = head(embeddings, torch.from_numpy(recorded["y"][step]))
        if "focal" in golden:
            loss = focal_of_the_batch_mean(loss)
        loss.backward()

        grad_weight = recorded["grad_W"][step]
        if golden == "amsoftmax_focal":
            grad_weight = through_normalisation(grad_weight, recorded["W"])
        assert relative_error(loss, recorded["loss"][step]) < 1e-4
        assert relative_error(embeddings.grad, recorded["grad_E"][step]) < 1e-4
        assert relative_error(head.weight.grad, grad_weight) < 1e-4
        for name, value in further_numbers(head, embeddings, recorded, step).items():
            assert relative_error(value, recorded[name][step]) < 1e-4, name


@pytest.mark.parametrize("golden", ["insightface_arcface", "arcface_exact"])
def test_the_two_margin_gradients_are_told_apart_by_the_goldens(golden):
    """So that the test above cannot pass with the wrong one."""
    recorded = np.load(GOLDENS / f"{golden}.npz")
    wrong = {"insightface_arcface": "exact", "arcface_exact": STRAIGHT}[golden]
    head = PartialFC(build_loss("arcface", gradient=wrong), 32, 60)
    head.weight.data.copy_(torch.from_numpy(recorded["W"]))
    embeddings = torch.from_numpy(recorded["E"][0]).requires_grad_()
    head(embeddings, torch.from_numpy(recorded["y"][0])).backward()
    assert relative_error(embeddings.grad, recorded["grad_E"][0]) > 0.01
