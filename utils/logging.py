"""What a run reports: log lines, a progress bar, metrics.jsonl and its mirrors, all by rank 0 alone."""

import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from tqdm import tqdm

from utils.errors import one_line
from utils.files import whole_file
from utils.last_words import subscribe
from utils.log_files import FULL, LOGGER_NAME, LineFile, LineHandler, worth_no_run


class ConsoleHandler(logging.Handler):
    """Prints to stdout, above the progress bar if there is one; leaves out what the bar itself shows."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "shown_by_bar", False):
            return
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:  # sent to a file on a full disk: train.log tells the rest, or nothing can
            if error.errno not in FULL:
                raise


def setup_logging(folder: str | Path, rank: int) -> logging.Logger:
    """The logger "lqface". Rank 0: to stdout and folder/train.log. Other ranks: warnings, to stderr."""
    logger = logging.getLogger(LOGGER_NAME)
    logger.propagate = False
    for handler in logger.handlers[:]:  # of an earlier run in this process
        logger.removeHandler(handler)
        handler.close()
    if rank == 0:
        Path(folder).mkdir(parents=True, exist_ok=True)
        logger.setLevel(logging.INFO)
        log_file = LineHandler(Path(folder) / "train.log")
        subscribe(_add_to_log_file)
        handlers = {ConsoleHandler(): "%H:%M:%S", log_file: "%Y-%m-%d %H:%M:%S"}
        line = "%(asctime)s  %(message)s"
    else:
        logger.setLevel(logging.WARNING)
        handlers, line = {logging.StreamHandler(): "%H:%M:%S"}, f"%(asctime)s  rank {rank}: %(message)s"
    for handler, date_format in handlers.items():
        handler.setFormatter(logging.Formatter(line, date_format))
        logger.addHandler(handler)
    return logger


def _add_to_log_file(message: str, ranks_know: bool) -> None:
    """What stderr gets at the end of the process, which no handler has seen."""
    record = logging.LogRecord(LOGGER_NAME, logging.ERROR, "", 0, message, None, None)
    for handler in logging.getLogger(LOGGER_NAME).handlers:
        if isinstance(handler, LineHandler):
            handler.handle(record)


class RunLog:
    """The numbers of a run as they come: to a progress bar or log lines, metrics.jsonl and mirrors of it.

    metrics.jsonl holds one object a line, flushed at once: {"kind": "train", "step", "epoch", "loss", "lr",
    "images_per_second", "data_wait", "memory_mib", ...}, and for each verification set {"kind": "eval",
    "step", "set", "accuracy", "accuracy_std", ...}. A number that is not finite is null.

    Args:
        folder: of the run; gets metrics.jsonl and pictures.
        rank: on all ranks but 0 every method does nothing.
        total_steps: of the whole run, with what was done before resuming.
        global_batch: images in one step, on all ranks together.
        first_step: steps done before. 0 begins anew. Otherwise lines of later steps are dropped from
            metrics.jsonl: they were written after the checkpoint that the run resumes from.
        mirrors: where numbers and pictures go besides: those of reports/mirrors.py.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        rank: int,
        total_steps: int,
        global_batch: int,
        first_step: int = 0,
        mirrors: Sequence = (),
    ):
        self.is_main, self.bar, self.mirrors, self.waited = rank == 0, None, mirrors, 0.0
        if not self.is_main:
            return
        self.folder = folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.logger = logging.getLogger(LOGGER_NAME)
        self.total_steps, self.global_batch, self.first_step = total_steps, global_batch, first_step
        self.metrics = _continue_metrics(folder / "metrics.jsonl", first_step)
        if width := _terminal_width(sys.stdout):
            form = "{percentage:3.0f}% {bar:16} {desc}" if width >= 130 else "{percentage:3.0f}% {desc}"
            progress = {"total": total_steps, "initial": first_step}
            self.bar = tqdm(**progress, file=sys.stdout, bar_format=form, dynamic_ncols=True)
        self.start_time = time.monotonic()
        self.restart_clock(first_step)

    def restart_clock(self, step: int) -> None:
        """Measure speed and waiting from here on: after something else than training, as a checkpoint is."""
        self.clock_step, self.clock, self.waited = step, time.monotonic(), 0.0

    @contextmanager
    def waiting(self):
        """The time inside counts as waiting for images."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    def log_step(self, step: int, *, epoch: float, loss, lr: float, **scalars) -> None:
        """The numbers of one step.

        Args:
            step: optimiser steps done, with this one: from 1.
            epoch: passes over the data done, with fraction.
            loss: a float, or a 0-dim tensor, for which this waits.
            scalars: further numbers or 0-dim tensors, for metrics.jsonl and the mirrors.
        """
        if not self.is_main:
            return
        loss = float(loss)  # waits for the GPU, so it comes before the clock is read
        now = time.monotonic()
        speed = (step - self.clock_step) * self.global_batch / max(now - self.clock, 1e-9)
        data_wait = self.waited / max(now - self.clock, 1e-9)
        # Over all steps so far, so that the time of evaluations and checkpoints is in it.
        seconds_per_step = (now - self.start_time) / max(step - self.first_step, 1)
        remaining = timedelta(seconds=round(seconds_per_step * (self.total_steps - step)))
        memory = peak_memory_mib()
        numbers = {"epoch": epoch, "loss": loss, "lr": lr, "images_per_second": speed, "data_wait": data_wait}
        self._record("train", step, numbers | {"memory_mib": memory} | scalars)
        text = f"step {step}/{self.total_steps}  epoch {epoch:.1f}  loss {loss:.3f}  lr {_rate(lr)}  "
        text += f"{_speed(speed)}  wait {data_wait:.0%}  ETA {remaining}  mem {memory / 1024:.1f} GiB"
        counts = {name: scalars[name] for name in ("skipped", "skipped_late") if scalars.get(name)}
        text += "".join(f"  {name} {count}" for name, count in counts.items())
        self.logger.info(text, extra={"shown_by_bar": self.bar is not None})
        if self.bar is not None:
            self.bar.n = step
            self.bar.set_description_str(text)
        self.restart_clock(step)

    def log_eval(self, step: int, results: dict) -> None:
        """Accuracies of the verification sets: name -> VerificationResult."""
        if not self.is_main:
            return
        width = max(map(len, results), default=0)
        for name, result in results.items():
            mean, std = float(result.accuracy.mean()), float(result.accuracy.std())
            numbers = {"accuracy": mean, "accuracy_std": std, "val": result.val, "far": result.far}
            text = f"step {step}  {name:<{width}}  accuracy {mean:.4f} ± {std:.4f}"
            text += f"  {result.rate_in_words}"
            if result.xnorm is not None:
                numbers["xnorm"] = result.xnorm
                text += f"  norm {result.xnorm:.2f}"
            self._record("eval", step, numbers, name)
            self.logger.info(text)
        self.restart_clock(step)

    def log_pairs(self, step: int, name: str, pairs: tuple[torch.Tensor, ...]) -> None:
        """Images before and after, one below the other, to folder/NAME.png and the mirrors.

        Args:
            pairs: (before, after), each `(n, 3, H, W)` in [-1, 1]; (): there is nothing to show.
        """
        if not self.is_main or not pairs:
            return
        from torchvision.utils import make_grid, save_image  # not at the top: the import takes seconds

        grid = make_grid(torch.cat(pairs), len(pairs[0]), normalize=True, value_range=(-1, 1), pad_value=1)
        if self.draw(f"{name}.png", lambda file: save_image(grid, file, format="png")):
            self.logger.info(f"step {step}  {name}.png shows {len(pairs[0])} images, before above after")
        for mirror in self.mirrors:
            mirror.add_image(step, name, grid)
        self.restart_clock(step)

    def draw(self, name: str, paint: Callable[[Path], object]) -> bool:
        """Let `paint` write the picture folder/name; whether it could. No picture is worth a run."""
        if not self.is_main:
            return False
        path = self.folder / name
        try:
            with worth_no_run(path), whole_file(path) as partial:
                paint(partial)
                return True
        except Exception as error:  # whatever it is, what was trained is worth more
            self.logger.warning("%s is not drawn: %s", path, one_line(error))
        return False

    def close(self) -> None:
        """Flush and close everything; may be called twice."""
        if self.is_main:
            self.metrics.close()
            for output in (self.bar, *self.mirrors):
                if output is not None:
                    output.close()

    def _record(self, kind: str, step: int, numbers: dict, set_name: str | None = None) -> None:
        numbers = {name: float(value) for name, value in numbers.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        of_set = {} if set_name is None else {"set": set_name}
        self.metrics.write(json.dumps({"kind": kind, "step": step, **of_set, **finite}))
        for mirror in self.mirrors:
            form = "train/{}" if set_name is None else f"{{}}/{set_name}"
            scalars = {form.format(name): value for name, value in numbers.items()}
            mirror.add_scalars(step, scalars, flush=kind == "eval")


def read_metrics(path: str | Path) -> list[dict]:
    """The lines of a metrics.jsonl. What is none is left out: a line that a kill has cut off, or damage."""
    lines = []
    for line in Path(path).read_bytes().split(b"\n"):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict) and isinstance(content.get("step"), int) and "kind" in content:
            lines.append(content)
    return lines


def peak_memory_mib() -> float:
    """The most memory held so far: of the GPU by tensors if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _continue_metrics(path: Path, first_step: int) -> LineFile:
    """The file to go on with, without the lines that the run is going to write again."""
    earlier = read_metrics(path) if first_step and path.exists() else []
    with whole_file(path) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in earlier if line["step"] <= first_step))
    return LineFile(path)


def _terminal_width(stream) -> int:
    """Columns of the terminal; 0, for no bar, where the stream is none or does not know its width."""
    return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0


def _rate(lr: float) -> str:
    return f"{lr:.4f}" if lr >= 1e-3 or lr == 0 else f"{lr:.1e}"


def _speed(images_per_second: float) -> str:
    return f"{images_per_second:.{0 if images_per_second >= 10 else 1}f} img/s"
