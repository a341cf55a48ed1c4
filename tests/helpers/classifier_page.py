"""docs/classifier.md as tests read it, and the heads that its tables speak of."""

import re
from pathlib import Path

import torch
from torch import nn

from helpers.interface_losses import HardNegatives
from losses import build_loss, build_regularizer
from partial_fc import PartialFC

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "classifier.md").read_text()
ENGINES = ("stream", "dense")


def table(first_cells: str) -> list[list[str]]:
    """The cells of the rows below the one table head that begins with these cells."""
    found = re.findall(rf"^\| {re.escape(first_cells)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert len(found) == 1, first_cells
    return [[cell.strip() for cell in row.strip()[1:-1].split("|")] for row in found[0].splitlines()]


class Everything(HardNegatives):
    """Three row statistics and a parameter."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(0.1))

    def other_logits(self, cos, own_cos, norms, statistics):
        return super().other_logits(cos, own_cos, norms, statistics) + self.offset


def make(names: str, **settings) -> PartialFC:
    """A head of 23 classes with the loss and the regularisers of `loss + regulariser + regulariser`."""
    loss, *regularizers = names.split(" + ")
    terms = [build_regularizer(name, **({"ramp": None} if name == "ndr" else {})) for name in regularizers]
    margin_loss = Everything() if loss == "everything" else build_loss(loss)
    return PartialFC(margin_loss, 6, 23, regularizers=terms, chunk_size=5, **settings)
