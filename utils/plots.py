"""Training curves of a run as one picture, and the style that all pictures share."""

from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from utils.logging import read_metrics

INK, MUTED, GRID = "#24292f", "#6e7781", "#d8dee4"
COLOURS = ["#1f6feb", "#d1570a", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#0a7ea4", "#cf222e"]
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.solid_capstyle": "round",
}


class Curve(NamedTuple):
    """How a number of the training steps is drawn."""

    key: str  # its name in metrics.jsonl
    title: str
    colour: str
    form: str  # of the label at its end
    smooth: bool = True
    from_zero: bool = False


LOSS = Curve("loss", "Loss", COLOURS[0], "{:.3f}")
LEARNING_RATE = Curve("lr", "Learning rate", COLOURS[3], "{:.2g}", smooth=False, from_zero=True)
SPEED = Curve("images_per_second", "Images per second", COLOURS[2], "{:,.0f}", from_zero=True)


OF_TRAINING = ("epoch", LOSS.key, LEARNING_RATE.key, SPEED.key)
OF_SET = ("accuracy", "accuracy_std")


def plot_training_curves(metrics_jsonl: str | Path, png: str | Path) -> None:
    """Loss, verification accuracy, learning rate and throughput over the steps, in a PNG.

    Raises:
        ValueError: the file holds no training step.
    """
    lines = read_metrics(metrics_jsonl)
    train = [line for line in lines if line["kind"] == "train" and _has_numbers(line, OF_TRAINING)]
    if not train:
        raise ValueError(f"{metrics_jsonl} holds no training step to plot")
    sets = {}
    for line in lines:
        if line["kind"] == "eval" and isinstance(line.get("set"), str) and _has_numbers(line, OF_SET):
            sets.setdefault(line["set"], []).append(line)

    last = train[-1]
    title = f"{Path(metrics_jsonl).resolve().parent.name}: {last['step']:,} steps, {last['epoch']:.1f} epochs"
    with matplotlib.rc_context(STYLE):  # a Figure of its own: no global state, no display
        figure = Figure(figsize=(12, 7.4), dpi=130, layout="constrained")
        figure.get_layout_engine().set(rect=(0.012, 0.012, 0.976, 0.976), h_pad=0.1, wspace=0.06, hspace=0.04)
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, color=MUTED)
        panels = figure.subplots(2, 2).ravel()
        for axes in panels:
            axes.set_xlim(0, max(line["step"] for line in train) * 1.01)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
            axes.set_xlabel("step")
        _curve(panels[0], train, LOSS)
        _accuracies(panels[1], sets)
        _curve(panels[2], train, LEARNING_RATE)
        _curve(panels[3], train, SPEED)
        figure.savefig(png, format="png")  # whatever the name ends with


def _has_numbers(line: dict, names: tuple[str, ...]) -> bool:
    """Whether these entries of a line are numbers, or null; lines may be of other programs."""
    return all(name in line and isinstance(line[name], int | float | None) for name in names)


def _curve(axes, train: list[dict], curve: Curve) -> None:
    """One number of the training steps; smoothed, with the raw values faint behind it."""
    steps = np.array([line["step"] for line in train])
    values = np.array([np.nan if line[curve.key] is None else line[curve.key] for line in train], dtype=float)
    axes.set_title(curve.title)
    window = len(values) // 25
    if curve.smooth and window > 1:
        axes.plot(steps, values, color=curve.colour, alpha=0.25, linewidth=1)
        values = _moving_mean(values, window)
    axes.plot(steps, values, color=curve.colour, linewidth=2)
    if curve.from_zero:
        axes.set_ylim(bottom=0)
    _mark_ends(axes, [(steps[-1], values[-1], curve.form.format(values[-1]), curve.colour)])


def _accuracies(axes, sets: dict[str, list[dict]]) -> None:
    """Each verification set: a marker an evaluation, the standard deviation over the folds as a band."""
    axes.set_title("Verification accuracy")
    if not sets:
        axes.text(0.5, 0.5, "no verification yet", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_yticks([])
        axes.grid(False)
        return
    ends = []
    for (name, lines), colour in zip(sets.items(), cycle(COLOURS)):
        steps = np.array([line["step"] for line in lines])
        mean, std = (np.array([line[key] for line in lines], float) for key in OF_SET)
        axes.fill_between(steps, mean - std, mean + std, color=colour, alpha=0.12, linewidth=0)
        axes.plot(steps, mean, color=colour, linewidth=2, marker="o", markersize=4)
        ends.append((steps[-1], mean[-1], f"{name}  {mean[-1]:.4f}", colour))
    _mark_ends(axes, ends)


def _mark_ends(axes, ends: list[tuple[float, float, str, str]]) -> None:
    """A dot and a label at the end of each curve, (step, value, text, colour); no label covers another."""
    ends = sorted((end for end in ends if np.isfinite(end[1])), key=lambda end: end[1])
    low, high = axes.get_ylim()
    at = [(value - low) / (high - low) for _, value, _, _ in ends]  # in heights of the panel
    gap = 0.06
    for i in range(1, len(at)):
        at[i] = max(at[i], at[i - 1] + gap)
    if at and at[-1] > 1:  # pushed over the top: pack downwards from there
        at[-1] = 1.0
        for i in reversed(range(len(at) - 1)):
            at[i] = min(at[i], at[i + 1] - gap)
    for (step, value, text, colour), height in zip(ends, at):
        axes.plot(
            step, value, "o", color=colour, markersize=6, markeredgecolor="white", clip_on=False, zorder=3
        )
        axes.text(1.02, height, text, transform=axes.transAxes, color=colour, va="center", fontweight="bold")


def _moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a centred window, narrower at both ends; values that are not finite are left out."""
    finite, kernel = np.isfinite(values), np.ones(window)
    sums = np.convolve(np.where(finite, values, 0), kernel, "same")
    with np.errstate(invalid="ignore"):  # 0 / 0, where no value is finite, is NaN: a gap in the curve
        return sums / np.convolve(finite, kernel, "same")
