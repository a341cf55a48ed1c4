"""The model files of a run, the best one by its verifications, and the end of a run that gets no better."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import nn

from backbones import save_backbone
from ranks.fail_together import fail_together
from utils.distributed import gather_objects, rank
from utils.frozen import to_builtin
from utils.log_files import LOGGER_NAME


def write_backbone(path: Path, backbone: nn.Module, cfg) -> None:
    """Let rank 0 write the backbone; every rank calls this, and fails with it."""
    names = dict(network=cfg.network, num_features=cfg.embedding_size)
    with fail_together():
        if rank() == 0:
            save_backbone(path, backbone, **names, network_args=to_builtin(cfg.network_args))


class BestModel:
    """Compares the verifications of a run; the same on every rank, as their results are.

    The score is the mean accuracy over the verification sets. Of equal scores the earlier one stays the best.

    Every rank makes one at the same time.

    Args:
        folder: of the run, for best.pt.
        keep: whether the best model is saved (`keep_best`).
        patience: verifications in a row that are not better, after which the run ends; 0: it does not.

    Attributes:
        path, was_there: of its file, and whether it was there at the start.
        score, step: of the best verification so far; None and 0 before.
        not_better: verifications since.
        sets: names of the verification sets that it is of.
    """

    def __init__(self, folder: Path, keep: bool, patience: int):
        self.path, self.keep, self.patience = folder / "best.pt", keep, patience
        self.was_there = gather_objects(self.path.is_file())[0]  # rank 0 writes it
        self.score, self.step, self.not_better = None, 0, 0
        self.sets: list[str] = []

    @property
    def decides(self) -> bool:
        """Whether something depends on the verifications, so that none may be left out."""
        return self.keep or self.patience > 0

    @property
    def is_over(self) -> bool:
        """Whether the run ends for want of a better verification."""
        return 0 < self.patience <= self.not_better

    def add(self, step: int, results: Mapping, save: Callable[[], None]) -> None:
        """Take the verification after `step` into account.

        Args:
            results: name of the set -> its result, with a `mean` accuracy.
            save: called where it is the best one and is to be kept.
        """
        if not self.decides or not results:
            return
        if self.sets and self.sets != sorted(results):  # a resumed run may verify on others
            logging.getLogger(LOGGER_NAME).info(
                "the best score so far was of other verification sets: it no longer counts"
            )
            self.score, self.not_better = None, 0
        self.sets = sorted(results)
        score = float(np.mean([result.mean for result in results.values()]))
        if self.score is not None and score <= self.score:
            self.not_better += 1
            return
        self.score, self.step, self.not_better = score, step, 0
        if self.keep:
            save()

    def until_over(self, steps: Iterable) -> Iterator:
        """The items of `steps`, until the run is over."""
        for step in steps:
            if self.is_over:
                logging.getLogger(LOGGER_NAME).info(
                    "the run ends early: %d verifications in a row were no better than that of step %d "
                    "(mean accuracy %.4f, patience=%d)",
                    *(self.not_better, self.step, self.score, self.patience),
                )
                return
            yield step

    def state_dict(self) -> dict:
        """What a checkpoint keeps."""
        kept = {"score": self.score, "step": self.step, "not_better": self.not_better}
        return kept | {"sets": self.sets, "keep": self.keep}

    def load_state_dict(self, state: Mapping) -> None:
        """Put it back; an empty one is of a run that compared nothing."""
        if state:
            self.score, self.step, self.not_better = state["score"], state["step"], state["not_better"]
            self.sets = list(state["sets"])
            if self.keep and not (state["keep"] and self.was_there):  # no file has it: the next one is kept
                self.score = None
