"""Draw where each loss changes its mind between two classes, side by side.

    python tools/decision_boundary.py --out boundaries.png
    python tools/decision_boundary.py --losses arcface arcface:m=0.3 curricularface --out arc.png
    python tools/decision_boundary.py --losses adaface magface --move norm 10 100 --gif norm.gif
    python tools/decision_boundary.py --losses curricularface --move t 0 1 --gif t.gif

A sample has the angle θ₁ to the centre of class 1 and θ₂ to that of class 2. On the blue line the two logits
of a sample of class 1 are equal, on the red line those of a sample of class 2. The grey area between them is
the margin: whatever its class, a sample there has the larger logit for the other class. For a loss that asks
each class on its own, a line is where the answers for both classes begin to be right. Where a line depends on
the norm of the feature, there is one for each of --norms, and grey is what is margin at any of them.
Running statistics are those after a long training on batches with --batch-norms and --mean-cos.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from matplotlib.figure import Figure

from losses import MarginLoss
from reports.style import MUTED
from tools.helpers.loss_pictures import Picture, argument_parser, make_pictures, small_multiples
from tools.helpers.loss_views import advantage
from utils.command_line import run_script

CLASS_1, CLASS_2 = "#0072b2", "#d55e00"  # also different for colour-blind eyes (Okabe and Ito)
TINTS = ("#d9eaf4", "#fae4d6")
MARGIN, BOTH = "#e4e7eb", "#c8b6d6"
DEGREES = np.linspace(0, 120, 481)  # hardly any sample is farther from its own centre
TICKS = (0, 30, 60, 90, 120)


def leads(loss: MarginLoss, norm: float) -> np.ndarray:
    """`(n, n)`, θ₂ by θ₁: the own logit of a sample of class 1 minus the other logit."""
    angles = torch.from_numpy(np.deg2rad(DEGREES))
    lead = advantage(loss, angles[None, :], angles[:, None], torch.tensor(norm)).numpy()
    return lead.clip(-1e3, 1e3)  # a class that the loss leaves out has the logit −inf


def draw_panel(axes, label: str, lead: np.ndarray, picture: Picture) -> None:
    """One loss; `lead` is `(norms, n, n)`. For class 2 it is the same with the two angles exchanged."""
    first = (lead > 0).all(0)
    region = np.select([first & first.T, first, first.T], [3, 1, 2], 0)
    axes.contourf(DEGREES, DEGREES, region, [-0.5, 0.5, 1.5, 2.5, 3.5], colors=[MARGIN, *TINTS, BOTH])
    for values, norm in zip(lead, picture.norms) if moves(lead) else [(lead[0], None)]:
        for field, colour in ((values, CLASS_1), (values.T, CLASS_2)):
            line = colour if norm is None else picture.norm_colour(norm)
            axes.contour(DEGREES, DEGREES, field, [0], colors=[line], linewidths=1.8)
    axes.text(0.04, 0.95, "class 1", color=CLASS_1, transform=axes.transAxes, va="top")
    axes.text(0.96, 0.05, "class 2", color=CLASS_2, transform=axes.transAxes, ha="right")
    middle, half = len(DEGREES) // 2, len(DEGREES) // 12
    word = range(middle - half, middle + half), range(middle + half, middle - half, -1)  # across the diagonal
    if not region[word].any():  # all of the word would stand on grey
        axes.text(
            0.5, 0.5, "margin", color=MUTED, transform=axes.transAxes, ha="center", va="center", rotation=45
        )
    axes.set(title=label, aspect="equal", xticks=TICKS, yticks=TICKS)
    axes.xaxis.set_major_formatter("{x:.0f}°")
    axes.yaxis.set_major_formatter("{x:.0f}°")
    axes.grid(False)


def moves(lead: np.ndarray) -> bool:
    """Whether the boundary depends on the norm: whether any lead changes its sign with it."""
    return bool((np.sign(lead) != np.sign(lead[:1])).any())


def draw(figure: Figure, picture: Picture) -> np.ndarray:
    """A panel for each loss. Returns the signs of the leads, which decide where the lines are."""
    panels = small_multiples(figure, len(picture.losses), columns=5, side=2.3)
    all_leads = [np.stack([leads(loss, norm) for norm in picture.norms]) for _, loss in picture.losses]
    for (axes,), (label, _), lead in zip(panels, picture.losses, all_leads):
        draw_panel(axes, label, lead, picture)
    figure.supxlabel("θ₁, angle to the centre of class 1", color=MUTED, fontsize=10)
    figure.supylabel("θ₂, angle to the centre of class 2", color=MUTED, fontsize=10)
    if any(map(moves, all_leads)):
        picture.add_norm_colours(figure, [axes for (axes,) in panels])
    return np.sign(np.stack(all_leads))


if __name__ == "__main__":
    run_script(lambda: make_pictures(argument_parser(__doc__).parse_args(), draw))
