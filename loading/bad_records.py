"""Images that could not be used and were replaced: named once, counted over all ranks, and not too many."""

import logging

import torch

from utils.distributed import all_gather_rows, gather_counts
from utils.errors import GroupError
from utils.logging import LOGGER_NAME
from utils.recordio import RecordError

MAX_SHARE = 0.01  # of the images that were looked at; if more cannot be used, something else is wrong
ALWAYS_ALLOWED = 10  # images: fewer are no share


class BadRecords:
    """The images of a dataset that could not be used.

    Attributes:
        found: their indices, of all ranks; equal on every rank.
        num_seen: images that all ranks have looked at up to the last report.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.found: set[int] = set()
        self.num_seen = 0
        self._new: list[int] = []
        self._num_new = 0

    def add(self, bad: list[int], num_images: int) -> None:
        """What one batch of this rank had: indices that could not be used, and its number of images."""
        self._new += bad
        self._num_new += num_images

    def report(self) -> dict[str, int]:
        """{"bad_records": how many so far}; logs those that are new, rank 0 to train.log.

        Every rank has to call this at the same step: the new indices cross the network, on the CPU.

        Raises:
            GroupError: of the different images seen, more than MAX_SHARE could not be used.
        """
        of_all = all_gather_rows(torch.tensor(self._new, dtype=torch.int64)).tolist()
        self.num_seen += sum(gather_counts(self._num_new))
        num_seen = min(self.num_seen, len(self.dataset))
        for index in sorted(set(of_all) - self.found):
            logging.getLogger(LOGGER_NAME).info(f"{self._reason(index)}; another image takes its place")
        self.found.update(of_all)
        self._new, self._num_new = [], 0
        if len(self.found) > max(MAX_SHARE * num_seen, ALWAYS_ALLOWED):
            raise GroupError(
                f"{len(self.found)} of {num_seen} images cannot be used, the log names them: "
                f"on_bad_record=skip allows {ALWAYS_ALLOWED}, or {MAX_SHARE:.0%} of the images"
            )
        return {"bad_records": len(self.found)}

    def state_dict(self) -> dict:
        return {"found": sorted(self.found), "num_seen": self.num_seen}

    def load_state_dict(self, state: dict) -> None:
        self.found, self.num_seen = set(state["found"]), state["num_seen"]

    def _reason(self, index: int) -> str:
        """What is wrong with an image: it is read once more."""
        try:
            self.dataset.read(index)
        except RecordError as error:
            return str(error)
        return f"{self.dataset.name_of(index)} could not be read, but can be now"
