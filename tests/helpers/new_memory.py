"""Memory that a kernel is given to write into, as bad as it can be."""

import math

import pytest
import torch


def fill_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on what is made empty holds NaN: who reads a number before writing it is found out."""

    def filled(make):
        def make_filled(*args, **kwargs):
            made = make(*args, **kwargs)
            return made.fill_(math.nan) if made.is_floating_point() else made

        return make_filled

    monkeypatch.setattr(torch, "empty_like", filled(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", filled(torch.Tensor.new_empty))
