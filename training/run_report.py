"""What people look at while a run goes on and after it: curves.png, hard_samples.json and report.html."""

import time
from functools import partial

from torch import Tensor

from dataset import FaceDataset
from training.hard_samples import HardSamples
from utils.logging import RunLog
from utils.progress import here

REST_S = 300  # seconds between two drawings: to draw takes seconds


class RunReport:
    """Draws now and then, and at the end; on all ranks but 0 every method does nothing.

    Args:
        log: of the run; its folder gets the files.
        dataset: what the run is trained on, whose hardest images the report shows.
        on: without it there is curves.png at the end, and nothing else.
    """

    def __init__(self, log: RunLog, dataset: FaceDataset, *, on: bool):
        self.log, self.on = log, on and log.is_main
        self.hard_samples = HardSamples(dataset) if self.on else None
        self._drawn_at = time.monotonic()

    def add(self, epoch: float, indices: Tensor, labels: Tensor, samples: dict[str, Tensor]) -> None:
        """A batch of this rank: `(b,)` indices into the dataset, labels, and PartialFC's `last_samples`."""
        if self.on:
            cosines, norms = samples["own_cosine"], samples["norm"]
            self.hard_samples.add(int(epoch), indices, labels, cosines, norms)

    def draw(self, *, at_the_end: bool = False) -> None:
        """Write the files anew, unless the last time was a moment ago or the run is asked to stop."""
        now = time.monotonic()
        is_due = self.on and now > self._drawn_at + REST_S and not here.stop_agreed
        if not self.log.is_main or not (at_the_end or is_due):
            return
        self._drawn_at = now
        # Not at the top: matplotlib takes a second to import, which the first step does not have to wait for.
        from reports.curves import plot_training_curves
        from reports.run_page import write_run_page

        self.log.draw("curves.png", partial(plot_training_curves, self.log.folder / "metrics.jsonl"))
        if self.on:
            self.log.draw("hard_samples.json", self.hard_samples.write)
            self.log.draw("report.html", partial(write_run_page, self.log.folder))
