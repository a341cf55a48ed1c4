"""What the tools that draw losses share: the command line, and making a picture or an animation of it."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from losses import LOSSES, MarginLoss
from reports.style import MUTED, STYLE
from tools.helpers.loss_views import Choice, TrainingStatistics, check_movable
from utils.errors import require

FRAMES_PER_SECOND = 8
NORMS = (10.0, 40.0, 70.0, 100.0)
NORM_COLOURS = "viridis"


@dataclass(frozen=True)
class Picture:
    """What one picture shows.

    Attributes:
        losses: (label, loss) of each panel.
        norms: the norms of the feature that it shows.
    """

    losses: list[tuple[str, MarginLoss]]
    norms: Sequence[float]

    def norm_colour(self, norm: float) -> tuple:
        return matplotlib.colormaps[NORM_COLOURS](self._norm_range()(norm))

    def add_norm_colours(self, figure: Figure, panels: list) -> None:
        """A bar that shows which colour is which norm."""
        colours = ScalarMappable(self._norm_range(), matplotlib.colormaps[NORM_COLOURS])
        bar = figure.colorbar(colours, ax=panels, shrink=0.5, aspect=40, pad=0.015, ticks=self.norms)
        bar.set_label("norm of the feature", color=MUTED)
        bar.outline.set_visible(False)

    def _norm_range(self) -> Normalize:
        return Normalize(min(self.norms), max(self.norms))


# Draws a picture and returns the numbers that it shows.
Draw = Callable[[Figure, Picture], np.ndarray]


def argument_parser(doc: str) -> argparse.ArgumentParser:
    """A parser with what all scripts that draw losses take; `doc` is the script's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, default = parser.add_argument, TrainingStatistics()
    batch_norms = (default.norm_mean, default.norm_std)
    add("--losses", nargs="+", metavar="NAME[:SETTING=VALUE...]", help="default: every loss that there is")
    add("--out", type=Path, help="PNG to write")
    add("--gif", type=Path, help="GIF to write, of a number that moves")
    add("--move", nargs=3, metavar=("WHAT", "FROM", "TO"), help="norm, a setting, or a running value")
    add("--frames", type=int, default=16, help="of the GIF, from FROM to TO; it also goes back (default 16)")
    add("--norms", type=float, nargs="+", default=NORMS, help="norms to draw (default 10 40 70 100)")
    add(
        "--batch-norms",
        type=float,
        nargs=2,
        default=batch_norms,
        metavar=("MEAN", "STD"),
        help="default 55 15",
    )
    add("--mean-cos", type=float, default=default.mean_cos, help="default 0.5")
    return parser


def make_pictures(args: argparse.Namespace, draw: Draw) -> None:
    """Write the PNG and the GIF that were asked for. The title in the PNG file names its losses.

    Raises:
        ValueError: unknown losses, settings or quantities, or an animation of what does not move.
    """
    check(args)
    choices = [Choice.read(text) for text in args.losses or LOSSES]
    if args.move:
        check_movable(args.move[0], choices)
    with matplotlib.rc_context(STYLE):
        if args.out:
            figure = Figure(layout="constrained")
            draw(figure, picture(args, choices))
            title = {"Title": "; ".join(map(str, choices))} if args.out.suffix == ".png" else None
            figure.savefig(args.out, metadata=title)
            print(f"wrote {args.out}")
        if args.gif:
            animate(args, choices, draw)
            print(f"wrote {args.gif}")


def check(args: argparse.Namespace) -> None:
    """Raise ValueError where arguments are out of range or do not go together."""
    if not args.out and not args.gif:
        raise ValueError("nothing to write: give --out, or --gif with --move")
    if bool(args.gif) != bool(args.move):
        raise ValueError("--gif and --move WHAT FROM TO go together")
    require(args.frames >= 2, "--frames", args.frames, ">= 2")
    require(all(norm > 0 for norm in args.norms), "--norms", args.norms, "> 0")
    require(min(args.batch_norms) > 0, "--batch-norms", args.batch_norms, "> 0")
    require(-1 <= args.mean_cos <= 1, "--mean-cos", args.mean_cos, "in [-1, 1]")


def picture(
    args: argparse.Namespace, choices: Sequence[Choice], moved: str = "", value: float = 0.0
) -> Picture:
    """The losses; the number `moved`, where there is one, has the value `value`."""
    statistics = TrainingStatistics(*args.batch_norms, args.mean_cos)
    losses = [(str(choice), choice.build(statistics, moved, value)) for choice in choices]
    return Picture(losses, [value] if moved == "norm" else sorted(args.norms))


def animate(args: argparse.Namespace, choices: Sequence[Choice], draw: Draw) -> None:
    """Write the GIF; without `--losses` it shows those that have the number that moves.

    Raises:
        ValueError: a norm that is not positive, or nothing in the picture moves.
    """
    moved, first, last = args.move[0], *map(float, args.move[1:])
    if moved == "norm":
        require(min(first, last) > 0, "--move norm", (first, last), "> 0")
    elif not args.losses:
        choices = [choice for choice in choices if moved in choice.movable()]

    def draw_at(figure: Figure, value: float) -> np.ndarray:
        figure.suptitle(f"{moved} = {value:.3g}")
        return draw(figure, picture(args, choices, moved, value))

    if np.array_equal(draw_at(Figure(), first), draw_at(Figure(), last)):
        raise ValueError(f"--move {moved}: from {first:g} to {last:g} nothing moves in this picture")
    write_gif(args.gif, draw_at, np.linspace(first, last, args.frames).tolist())


def small_multiples(
    figure: Figure, count: int, columns: int, side: float, heights: Sequence[float] = (1.0,), **subplots
) -> list[list]:
    """`count` stacks of axes, `side` inches wide; `heights` are those of the axes, in units of `side`.

    Up to `columns` stacks are in a row; the figure gets the size that they need. Axes at the same place of
    their stacks share their scales, which are shown at the left and at the bottom only.
    """
    columns = min(columns, count)
    rows, depth = -(-count // columns), len(heights)
    figure.set_size_inches(columns * side + 1, rows * side * sum(heights) + 0.6)
    grid = figure.subplots(
        rows * depth, columns, squeeze=False, height_ratios=list(heights) * rows, **subplots
    )
    stacks = [list(grid[i // columns * depth :][:depth, i % columns]) for i in range(rows * columns)]
    for i, stack in enumerate(stacks):
        for place, axes in enumerate(stack):
            if i >= count:
                axes.remove()
            elif i:
                axes.sharex(stacks[0][0])
                axes.sharey(stacks[0][place])
            at_bottom = place == depth - 1 and i + columns >= count
            axes.tick_params(labelleft=i % columns == 0, labelbottom=at_bottom)
    return stacks[:count]


def write_gif(path: str | Path, draw: Callable[[Figure, float], object], values: list[float]) -> None:
    """Frames, each drawn by `draw(figure, value)`: of all values in turn, then back to the first."""
    figure = Figure(layout="constrained", dpi=100)
    draw(figure, values[0])  # gives the figure its size
    writer = PillowWriter(fps=FRAMES_PER_SECOND)
    with writer.saving(figure, path, dpi=figure.dpi):
        for value in [*values, *values[-2:0:-1]]:
            figure.clear()
            draw(figure, value)
            writer.grab_frame()
