"""ROC, DET and CMC curves as figures."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from reports.style import COLOURS, DASHES, INK, STYLE

NARROWEST = 0.02  # of an axis of cosines

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]  # name -> x, y


def roc_figure(curves: Curves, title: str = "ROC", x: str = "FAR", y: str = "TAR") -> Figure:
    """Receiver operating characteristic: (FAR, TAR) of each curve, FAR on a logarithmic axis.

    Args:
        x, y: the names of the axes, such as FPIR and TPIR.
    """
    figure, axes = _axes(curves, title, x, y)
    _error_rates(axes, "x")
    _in_percent(axes)
    return figure


def det_figure(curves: Curves, title: str = "DET", x: str = "FAR", y: str = "FRR") -> Figure:
    """Detection error trade-off: of the same (FAR, TAR) curves as `roc_figure`, both errors on log axes."""
    misses = {name: (far, 1 - np.asarray(tar)) for name, (far, tar) in curves.items()}
    figure, axes = _axes(misses, title, x, y, y_above=0)
    _error_rates(axes, "x", "y")
    return figure


def cmc_figure(curves: Curves, title: str = "CMC") -> Figure:
    """Cumulative match characteristic: (rank, identification rate) of each curve, ranks on a log axis."""
    figure, axes = _axes(curves, title, "rank", "identification rate")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:,.0f}"))
    _in_percent(axes)
    return figure


def cosine_figure(cosines: np.ndarray, same: np.ndarray, thresholds: np.ndarray, title: str) -> Figure:
    """Histograms of the cosines of same and different pairs, `(P,)`, and the thresholds of the folds."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4), dpi=150, layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel="cosine", ylabel="share of the pairs")
        low, high = cosines.min(), cosines.max()
        room = max(0.0, (NARROWEST - (high - low)) / 2)  # a collapsed network has all cosines at 1
        bins = np.linspace(low - room, high + room, 60)
        for kind, name, colour in (
            (~same, "different people", COLOURS[1]),
            (same, "same person", COLOURS[0]),
        ):
            weights = np.full(kind.sum(), 1 / max(kind.sum(), 1))
            axes.hist(cosines[kind], bins, weights=weights, alpha=0.55, label=name, color=colour)
        for threshold in np.unique(thresholds):
            axes.axvline(threshold, color=INK, linewidth=0.8, linestyle="--")
        axes.plot([], [], color=INK, linewidth=0.8, linestyle="--", label="best thresholds of the folds")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(frameon=False)
    return figure


def _error_rates(axes: Axes, *names: str) -> None:
    """Make axes logarithmic, "x", "y" or both: at least a decade, so that it has ticks, and not beyond 1."""
    for name in names:
        getattr(axes, f"set_{name}scale")("log")
        low, high = getattr(axes, f"get_{name}lim")()
        if not np.isfinite(axes.dataLim.minpos).all():  # no curve has anything to show
            low, high = 1e-3, 1
        high = min(high, 1)
        getattr(axes, f"set_{name}lim")(min(low, high / 10), high)


def _in_percent(axes: Axes) -> None:
    """Show y in percent; the axis ends just above 100 %, so that a curve that stays there is seen."""
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.005))


def _axes(curves: Curves, title: str, x: str, y: str, y_above: float = -np.inf):
    """A figure of its own (no global state, no display) with the curves, of which x > 0 and y > y_above."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 5), dpi=150, layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel=x, ylabel=y)
        looks = zip(curves.items(), cycle(COLOURS), cycle(DASHES))
        for (name, curve), colour, dash in looks:
            points = np.array(curve, dtype=float)  # (2, N)
            points = _thinned(points[:, (points[0] > 0) & (points[1] > y_above)])
            dot = {"marker": "o", "clip_on": False} if points.shape[1] == 1 else {}  # a line needs two points
            label = name if points.size else f"{name} (no error to show)"  # log axes have no place for 0
            axes.plot(*points, label=label, color=colour, linestyle=dash, linewidth=1.8, **dot)
        axes.legend(frameon=False)
    return figure, axes


def _thinned(points: np.ndarray) -> np.ndarray:
    """Leave out each point whose successor is drawn at the same spot: an ROC has a point for each score."""
    spot = np.stack([np.rint(500 * np.log10(points[0])), np.rint(10_000 * points[1])])
    return points[:, np.diff(spot, append=np.nan).any(axis=0)]  # NaN counts as a difference: the last stays
