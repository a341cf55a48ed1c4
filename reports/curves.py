"""Curves over the steps of one run or of several: as the panels of one PNG, or a figure each."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.run_files import training_lines, verification_lines
from reports.style import COLOURS, DASHES, MUTED, STYLE
from utils.logging import read_metrics

MOST_POINTS = 1500  # of a curve that are drawn: more than a picture has columns


class Panel(NamedTuple):
    """How one number is drawn."""

    title: str
    form: str = "{:.3g}"  # of the label at the end of a curve
    smooth: bool = True
    from_zero: bool = False
    with_markers: bool = False  # at each value, where there are few


class Series(NamedTuple):
    """One curve: its steps and values `(n,)`, and half the height of the band around it, or None."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    spread: np.ndarray | None = None


LOSS = Panel("Loss", "{:.3f}")
LEARNING_RATE = Panel("Learning rate", "{:.2g}", smooth=False, from_zero=True)
SPEED = Panel("Images per second", "{:,.0f}", from_zero=True)
ACCURACY = Panel("Verification accuracy", "{:.4f}", smooth=False, with_markers=True)


def series_of(lines: Sequence[dict], key: str, name: str = "", spread: str | None = None) -> Series:
    """The number `key` of lines of metrics.jsonl; what is no number is a gap."""
    columns = [
        np.array([_number(line.get(column)) for line in lines])
        for column in ("step", key, *([spread] if spread else []))
    ]
    step = -(-len(lines) // MOST_POINTS) or 1
    return Series(name, *(column[::-1][::step][::-1] for column in columns))  # the last one stays


def _number(value) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def accuracies(lines: Sequence[dict]) -> list[Series]:
    """A curve for each verification set, its band the standard deviation over the folds."""
    sets = {}
    for line in verification_lines(lines):
        sets.setdefault(line["set"], []).append(line)
    return [series_of(of_set, "accuracy", name, spread="accuracy_std") for name, of_set in sets.items()]


def plot_training_curves(metrics_jsonl: str | Path, png: str | Path) -> None:
    """Loss, verification accuracy, learning rate and throughput over the steps, in a PNG.

    Raises:
        ValueError: the file holds no training step.
    """
    lines = read_metrics(metrics_jsonl)
    train = training_lines(lines)
    if not train:
        raise ValueError(f"{metrics_jsonl} holds no training step to plot")
    last = train[-1]
    title = f"{Path(metrics_jsonl).resolve().parent.name}: {last['step']:,} steps, {last['epoch']:.1f} epochs"
    with matplotlib.rc_context(STYLE):  # a Figure of its own: no global state, no display
        figure = Figure(figsize=(12, 7.4), dpi=130, layout="constrained")
        figure.get_layout_engine().set(rect=(0.012, 0.012, 0.976, 0.976), h_pad=0.1, wspace=0.06, hspace=0.04)
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, color=MUTED)
        panels = figure.subplots(2, 2).ravel()
        draw(panels[0], LOSS, [series_of(train, "loss")])
        draw(panels[1], ACCURACY, accuracies(lines))
        draw(panels[2], LEARNING_RATE, [series_of(train, "lr")])
        draw(panels[3], SPEED, [series_of(train, "images_per_second")])
        figure.savefig(png, format="png")  # whatever the name ends with


def chart(panel: Panel, series: Sequence[Series]) -> Figure:
    """One panel as a figure of its own; the page that shows it says what it is, so it has no title."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4), dpi=150, layout="constrained")
        draw(figure.subplots(), panel._replace(title=""), series)
    return figure


def draw(axes: Axes, panel: Panel, series: Sequence[Series]) -> None:
    """The curves of one panel, each with its last value at the right; smoothed ones over faint raw values."""
    axes.set_title(panel.title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.set_xlabel("step")
    series = [curve for curve in series if len(curve.steps)]
    if not series:
        axes.text(0.5, 0.5, "none yet", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_yticks([])
        axes.grid(False)
        return
    axes.set_xlim(0, max(curve.steps.max() for curve in series) * 1.01)
    ends = []
    for curve, colour, dash in zip(series, cycle(COLOURS), cycle(DASHES)):
        values, window = curve.values, len(curve.values) // 25
        if curve.spread is not None:
            band = values - curve.spread, values + curve.spread
            axes.fill_between(curve.steps, *band, color=colour, alpha=0.12, linewidth=0)
        if panel.smooth and window > 1:
            axes.plot(curve.steps, values, color=colour, alpha=0.2, linewidth=1)
            values = _moving_mean(values, window)
        marker = {"marker": "o", "markersize": 4} if panel.with_markers else {}
        axes.plot(curve.steps, values, dash, color=colour, linewidth=2, **marker)
        label = f"{curve.name}  {panel.form.format(values[-1])}".strip()
        ends.append((curve.steps[-1], values[-1], label, colour))
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    _mark_ends(axes, ends)


def _mark_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """A dot and a label at the end of each curve, (step, value, text, colour); no label covers another."""
    ends = sorted((end for end in ends if np.isfinite(end[1])), key=lambda end: end[1])
    low, high = axes.get_ylim()
    at = [(value - low) / (high - low) for _, value, _, _ in ends]  # in heights of the panel
    gap = 0.08 if len(ends) > 1 else 0
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
        beside = {"transform": axes.transAxes, "clip_on": False}
        if len(ends) > 1:  # which curve the label is of
            axes.plot(1.02, height, "s", color=colour, markersize=5, **beside)
        axes.text(1.04, height, text, va="center", fontweight="bold", **beside)


def _moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a centred window, narrower at both ends; values that are not finite are left out."""
    finite, kernel = np.isfinite(values), np.ones(window)
    sums = np.convolve(np.where(finite, values, 0), kernel, "same")
    with np.errstate(invalid="ignore"):  # 0 / 0, where no value is finite, is NaN: a gap in the curve
        return sums / np.convolve(finite, kernel, "same")
