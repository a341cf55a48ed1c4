"""Pictures of robustness: accuracy over the amount of a perturbation, and norms of the features.

Curves are those of `eval.robustness.curves`, with the same sets and perturbations for each model.
"""

from collections.abc import Mapping
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from eval.robustness.curves import Curve, Curves
from eval.robustness.perturbations import PERTURBATIONS
from reports.style import COLOURS, DASHES, MUTED, STYLE

COLUMNS = 4  # panels in a row
PANEL = (3.2, 2.5)  # inches
MARGIN = 0.08  # inches
BINS = (8, 40)  # of a histogram, at least and at most
SEVERITY_COLOURS = "plasma"


def robustness_figure(curves: Curves) -> Figure:
    """One panel a perturbation, one line a model and set: accuracy over the amount, clean at the left.

    Colours tell models, dashes tell sets; of a single model, colours tell sets as well. Bands: ± one standard
    error.
    """
    models, sets = list(curves), list(next(iter(curves.values())))
    kinds = list(curves[models[0]][sets[0]])
    alone = len(models) == 1
    colour_of, dash_of = dict(zip(sets if alone else models, cycle(COLOURS))), dict(zip(sets, cycle(DASHES)))
    looks = {
        (model, name): dict(color=colour_of[name if alone else model], linestyle=dash_of[name], linewidth=1.8)
        for name in sets  # a legend is filled column by column: a column for each set, a row for each model
        for model in models
    }
    shown = [curves[model][name][kind] for model, name in looks for kind in kinds]
    low = min((curve.accuracy - curve.standard_error).min() for curve in shown)
    high = max((curve.accuracy + curve.standard_error).max() for curve in shown)
    with matplotlib.rc_context(STYLE):  # a figure of its own: no global state, no display
        rows, columns = shape_of(len(kinds))
        figure = new_figure((columns * PANEL[0] + 0.4, rows * PANEL[1] + 0.2))
        add_legend(
            figure,
            {name if alone else f"{model}, {name}": look for (model, name), look in looks.items()},
            len(sets),
        )
        for axes, kind in zip(panels_of(figure, len(kinds)), kinds):
            for (model, name), look in looks.items():
                curve = curves[model][name][kind]
                axes.plot(curve.amounts, curve.accuracy, marker="o", markersize=3.5, **look)
                band = curve.accuracy - curve.standard_error, curve.accuracy + curve.standard_error
                axes.fill_between(curve.amounts, *band, color=look["color"], alpha=0.12, linewidth=0)
            amount_axis(axes, kind, curve.amounts)
            axes.set_ylim(low - 0.02, min(high + 0.02, 1.015))
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def add_legend(figure: Figure, looks: Mapping[str, dict], most: int) -> None:
    """Put a legend above the panels, in as many columns as fit; the figure grows by its height.

    Args:
        figure: without axes yet.
        looks: label -> keywords of `Line2D`.
        most: columns.
    """
    handles = [Line2D([], [], label=label, **look) for label, look in looks.items()]
    width, height = figure.get_size_inches()
    for columns in range(most, 0, -1):
        legend = figure.legend(
            handles=handles, loc="outside upper left", ncols=columns, frameon=False, handlelength=3
        )
        extent = legend.get_window_extent()  # pixels
        needed = extent.width / figure.dpi + 2 * MARGIN
        if needed <= width or columns == 1:
            break
        legend.remove()
    figure.set_size_inches(max(width, needed), height + extent.height / figure.dpi + MARGIN)


def amount_axis(axes, kind: str, amounts: tuple[float, ...]) -> None:
    """Ticks at the amounts, the clean one at the left; where less is worse, on a logarithmic axis."""
    perturbation = PERTURBATIONS[kind]
    axes.set(title=kind, xlabel=perturbation.label)
    if perturbation.clean > perturbation.worst:
        axes.set_xscale("log")
        axes.invert_xaxis()
    axes.set_xticks(amounts, [f"{amount:g}" for amount in amounts])
    axes.tick_params(labelsize=8)
    axes.xaxis.set_minor_locator(NullLocator())


def norm_figure(curves: Curves) -> Figure:
    """Histograms of feature norms: of the clean sets, and of each set with each perturbation.

    A block of panels for each model: the norms of two models do not compare.
    """
    sets = next(iter(curves.values()))
    count = 1 + len(sets) * len(next(iter(sets.values())))
    rows, columns = shape_of(count)
    with matplotlib.rc_context(STYLE):
        size = (columns * PANEL[0] + 0.4, len(curves) * (rows * PANEL[1] + 0.4))
        figure = new_figure(size)
        blocks = figure.subfigures(len(curves), squeeze=False)[:, 0]
        for block, (model, sets) in zip(blocks, curves.items()):
            block.suptitle(model, x=0.01, ha="left", color=MUTED)
            draw_norms(panels_of(block, count), sets)
    return figure


def draw_norms(panels: list, sets: Mapping[str, Mapping[str, Curve]]) -> None:
    """The histograms of one model, all over the same bins.

    Args:
        panels: one, and one for each set and perturbation.
        sets: set -> perturbation -> Curve.
    """
    clean = {name: next(iter(kinds.values())).clean_norms for name, kinds in sets.items()}
    perturbed = {
        f"{kind}, {name}": (kind, curve) for name, kinds in sets.items() for kind, curve in kinds.items()
    }
    every = np.concatenate([*clean.values(), *(curve.norms.ravel() for _, curve in perturbed.values())])
    fewest = min(len(norms) for norms in clean.values())
    bins = np.histogram_bin_edges(every, bins=np.clip(int(fewest**0.5), *BINS))
    panels[0].set_title("clean sets")
    for (name, norms), colour, dash in zip(clean.items(), cycle(COLOURS), cycle(DASHES)):
        panels[0].hist(norms, bins, histtype="step", color=colour, ls=dash, linewidth=1.6, label=name)
    for axes, (title, (kind, curve)) in zip(panels[1:], perturbed.items()):
        axes.set_title(title)
        axes.hist(curve.norms[0], bins, color="#d0d7de", label="clean")
        colours = matplotlib.colormaps[SEVERITY_COLOURS](np.linspace(0, 0.85, len(curve.amounts) - 1))
        for amount, norms, colour in zip(curve.amounts[1:], curve.norms[1:], colours):
            label = f"{amount:g}{PERTURBATIONS[kind].unit}"
            axes.hist(norms, bins, histtype="step", color=colour, linewidth=1.4, label=label)
    for axes in panels:
        axes.set(xlabel="norm of the feature", xlim=(bins[0], bins[-1]))
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(4))  # few: norms that hardly differ take many digits
        axes.ticklabel_format(axis="x", style="plain", useOffset=False)
        axes.set_yticks([])
        axes.grid(False)
        axes.legend(frameon=False, fontsize=8, handlelength=1.2)


def new_figure(size: tuple[float, float]) -> Figure:
    """With a margin all around."""
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    figure.get_layout_engine().set(w_pad=MARGIN, h_pad=MARGIN)
    return figure


def shape_of(count: int) -> tuple[int, int]:
    """Rows and columns for so many panels."""
    columns = min(COLUMNS, count)
    return -(-count // columns), columns


def panels_of(figure, count: int) -> list:
    """`count` axes in rows; what is left of the grid stays empty."""
    panels = list(figure.subplots(*shape_of(count), squeeze=False).ravel())
    for axes in panels[count:]:
        axes.remove()
    return panels[:count]
