"""What a run has left in its folder, and whether two runs have ended alike, bit for bit."""

import json
from pathlib import Path

import torch

from training import checkpoint


def tensors(value, name: str = "") -> dict[str, torch.Tensor]:
    """All numbers of a nested dict, by path."""
    if isinstance(value, dict):
        return {path: t for key, item in value.items() for path, t in tensors(item, f"{name}/{key}").items()}
    if isinstance(value, list):
        return tensors(dict(enumerate(value)), name)
    return {} if value is None or isinstance(value, str) else {name: torch.as_tensor(value)}


def state_of(run: Path, step: int, num_classes: int = 5) -> dict[str, torch.Tensor]:
    """All numbers of a checkpoint and of the model."""
    parts = dict(enumerate(checkpoint.load(run / "checkpoints", 0, num_classes, step)))
    return tensors(parts) | tensors(torch.load(run / "model.pt"), "model")


def metrics(run: Path, kind: str = "train") -> list[dict]:
    """The lines of metrics.jsonl of one kind."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in metrics(run)]


def assert_same_end(one: Path, other: Path, steps: int) -> None:
    """The same checkpoint, model and logged losses; each of the steps is logged once."""
    first, second = state_of(one, steps), state_of(other, steps)
    assert first.keys() == second.keys()
    assert len(first) > 100
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert losses(one) == losses(other)
    assert [step for step, _ in losses(one)] == list(range(1, steps + 1))
