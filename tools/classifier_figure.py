"""Draw the figure of docs/classifier.md: who holds what, and one training step on two ranks.

    python tools/classifier_figure.py --out docs/images/classifier.png

Above, the matrix of logits: its columns belong to the ranks, its rows are gathered on all. Below, the step,
downwards, with a lane for each rank. Blue and orange boxes hold what one rank has, a grey box over both
lanes what is equal on all ranks, a dark bar is a collective. On the right, the methods of the loss.
"""

import argparse
import io
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image

from reports.style import COLOURS, INK, MUTED, STYLE
from utils.command_line import run_script


class Look(NamedTuple):
    """Of a box."""

    fill: str
    edge: str
    opacity: float = 1.0
    dashed: bool = False


RANKS = COLOURS[:2]  # blue and orange, which all eyes tell apart
PALE = 0.14  # opacity of what a rank holds
OF_RANK = tuple(Look(colour, colour, PALE) for colour in RANKS)
EQUAL = Look("#eceff2", MUTED)
NETWORK = Look(INK, INK)
IF_ASKED = Look("white", INK, dashed=True)

WIDTH = 100.0  # of both panels, in their own units
LANES = ((9.0, 39.0), (42.0, 72.0))  # left and right end
LEFT, RIGHT = LANES[0][0], LANES[-1][1]
LOSS = 76.0  # where the column of the loss begins
LINE, BAR, GAP = 2.3, 2.9, 1.1  # heights: a line of text, a collective, between two boxes
BOLD = dict(weight="bold")
HEADING = dict(weight="bold", size=11)
PALETTE = 128  # colours of the PNG, a third of the size of one without a palette

OWN_CLASSES = (2, 9, 4, 0, 7, 2, 11, 8)  # of the samples in the matrix
NUM_CLASSES = 12
NOTES = (
    "Every rank gets all rows, once they\nare gathered, and has its columns.",
    "●  the own class of a sample:\n    its cosine goes to own_cos (B,)",
    "All others of a row: their logits\ngo to lse_others (B,)",
)


# ---------------------------------------------------------------- the matrix


def draw_matrix(axes: Axes) -> None:
    """Samples × classes, with the owners of both sides."""
    cell = 2.6
    left, top = 29.0, 22.0
    width, height = cell * NUM_CLASSES / 2, cell * len(OWN_CLASSES)
    text(axes, LEFT, 31, "The logits (B, C), which no rank holds", align="left", **HEADING)
    for rank, colour in enumerate(RANKS):
        x, y = left + rank * width, top - rank * height / 2
        rectangle(axes, (x, top + 1, width - 0.4, 2.2), colour, 0.55)
        text(axes, x + width / 2 - 0.2, top + 5.6, f"centres of\nrank {rank} (n, D)", color=colour, **BOLD)
        rectangle(axes, (x, top - height, width - 0.4, height), colour, PALE)
        rectangle(axes, (x + 2 * cell, top - height, 2 * cell, height), colour, 0.3)
        text(axes, x + 3 * cell, top - height - 1.8, "chunk", color=MUTED)
        rectangle(axes, (left - 3.6, y - height / 2 + 0.2, 2.4, height / 2 - 0.4), colour, 0.55)
        label = f"embeddings of\nrank {rank} (b, D)"
        text(axes, left - 4.8, y - height / 4, label, align="right", color=colour, **BOLD)
    for sample, own in enumerate(OWN_CLASSES):
        axes.plot(left + (own + 0.5) * cell, top - (sample + 0.5) * cell, "o", color=INK, markersize=4.5)
    for y, note in zip((18.5, 11, 2.5), NOTES):
        text(axes, left + 2 * width + 3, y, note, align="left")


# ---------------------------------------------------------------- the step


class Steps:
    """Draws downwards, one thing below the other, and numbers what is not a collective."""

    def __init__(self, axes: Axes):
        self.axes, self.y, self.number = axes, 0.0, 0

    def heading(self, words: str) -> None:
        """The name of what follows, at the left edge."""
        self.y -= GAP
        text(self.axes, LEFT, self.y - 1, words, align="left", **HEADING)
        self.y -= 3.2

    def on_each_rank(self, words: str, loss: str = "", if_asked: bool = False) -> None:
        """A box in each lane; dashed where not every loss has this step."""
        for (left, right), look in zip(LANES, OF_RANK):
            height = self._box(left, right, words, look._replace(dashed=if_asked))
        self._finish(height, loss)

    def equal_everywhere(self, words: str, loss: str = "") -> None:
        """One box over all lanes."""
        self._finish(self._box(LEFT, RIGHT, words, EQUAL), loss)

    def collective(self, words: str, if_asked: bool = False) -> None:
        """A bar over all lanes."""
        left, right = LEFT + 3, RIGHT - 3
        box(self.axes, (left, self.y - BAR, right - left, BAR), IF_ASKED if if_asked else NETWORK)
        ink = INK if if_asked else "white"
        text(self.axes, (left + right) / 2, self.y - BAR / 2, words, color=ink)
        self.y -= BAR + GAP

    def _box(self, left: float, right: float, words: str, look: Look) -> float:
        """Returns its height."""
        height = LINE * (words.count("\n") + 1) + 1.4
        box(self.axes, (left, self.y - height, right - left, height), look)
        text(self.axes, (left + right) / 2, self.y - height / 2, words)
        return height

    def _finish(self, height: float, loss: str) -> None:
        self.number += 1
        middle = self.y - height / 2
        text(self.axes, LEFT - 3.5, middle, str(self.number), color=MUTED, **BOLD)
        text(self.axes, LOSS, middle, loss, align="left", family="DejaVu Sans Mono")
        self.y -= height + GAP


def draw_steps(axes: Axes) -> float:
    """The step; returns how far down it reaches."""
    draw_legend(axes, 8.5)
    for rank, ((left, right), colour) in enumerate(zip(LANES, RANKS)):
        text(axes, (left + right) / 2, 2, f"rank {rank}", color=colour, **HEADING)
    text(axes, LOSS, 2, "calls to the loss", align="left", **HEADING)
    steps = Steps(axes)
    steps.heading("Forward")
    steps.on_each_rank("embeddings (b, D) and labels (b,)\nof its own images", "set_progress")
    steps.collective("gather:  embeddings (B, D), labels (B,)")
    steps.equal_everywhere("embeddings (B, D), raw and of length 1, norms (B,), labels (B,)", "draw")
    steps.on_each_rank("cosines of the samples\nwhose class is here")
    steps.collective("sum:  own_cos (B,)")
    steps.equal_everywhere("own_cos (B,)", "update_state")
    steps.on_each_rank("blocks of cosines (rows, chunk),\na term for each", "row_statistics", if_asked=True)
    steps.collective("sum or max:  (B,) for each statistic", if_asked=True)
    steps.on_each_rank("blocks of logits (rows, chunk),\nlargest and Σ exp of each row", "other_logits")
    steps.collective("max, then sum:  lse_others (B,)")
    steps.collective("for regularisers, sum: own_centres, own_rows (B, D), max: max_cos (B,)", if_asked=True)
    steps.equal_everywhere(
        "L:  the mean over the samples of their losses (B,),\nplus the regularisers",
        "own_logit, per_sample\n(regularisers' methods)",
    )
    steps.heading("Backward")
    steps.equal_everywhere("∂L/∂lse_others and ∂L/∂own_cos (B,), by autograd")
    steps.on_each_rank(
        "blocks again:  ∂L/∂centres (n, D),\nwhich stays here, and a part\nof ∂L/∂embeddings (B, D)",
        "other_logits\nagain",
    )
    steps.collective("sum:  ∂L/∂own_cos and ∂L/∂norms (2, B), each parameter", if_asked=True)
    steps.collective("sum:  ∂L/∂embeddings (B, D)")
    steps.on_each_rank("its own b rows of it × number of\nranks; DDP will average")
    return steps.y


def draw_legend(axes: Axes, y: float) -> None:
    """What the four kinds of boxes mean, in a row at height y."""
    words = ("one rank's own", "equal on all ranks", "crosses the network", "only where asked for")
    for i, (meaning, look) in enumerate(zip(words, (None, EQUAL, NETWORK, IF_ASKED))):
        x = LEFT + 23 * i
        if look is None:
            for half, of_rank in enumerate(OF_RANK):
                box(axes, (x + 2.1 * half, y - 1, 1.9, 2), of_rank)
        else:
            box(axes, (x, y - 1, 4, 2), look)
        text(axes, x + 5, y, meaning, align="left", color=MUTED)


# ---------------------------------------------------------------- both


def rectangle(axes: Axes, bounds: tuple, colour: str, opacity: float) -> None:
    """bounds: left, bottom, width, height."""
    x, y, width, height = bounds
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, alpha=opacity, linewidth=0))


def box(axes: Axes, bounds: tuple, look: Look) -> None:
    """With round corners; bounds as of `rectangle`."""
    x, y, width, height = bounds
    shape = (x, y), width, height, "round,pad=0,rounding_size=0.6"
    axes.add_patch(FancyBboxPatch(*shape, facecolor=look.fill, alpha=look.opacity, linewidth=0))
    line = dict(edgecolor=look.edge, linestyle=(0, (4, 3)) if look.dashed else "solid", linewidth=1.1)
    axes.add_patch(FancyBboxPatch(*shape, fill=False, **line))


def text(axes: Axes, x: float, y: float, words: str, align: str = "center", **font) -> None:
    """Words around (x, y), in the figure's font unless `font` says otherwise."""
    font = {"size": 9.5, "color": INK} | font
    axes.text(x, y, words, ha=align, va="center", linespacing=1.25, **font)


def draw(png: Path) -> None:
    """The whole figure as a PNG of few colours."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 11.9), dpi=110, layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(0.28, 1))
        draw_matrix(above)
        above.set_ylim(-1, 32.5)
        below.set_ylim(draw_steps(below), 11)
        for axes in (above, below):
            axes.set_xlim(0, WIDTH)
            axes.axis("off")
        drawn = io.BytesIO()
        figure.savefig(drawn)
    Image.open(drawn).convert("RGB").quantize(PALETTE).save(png, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    args = parser.parse_args()
    draw(args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_script(main)
