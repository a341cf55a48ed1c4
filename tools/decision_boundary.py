"""Draw where each loss changes its mind between two classes, side by side.

    python tools/decision_boundary.py --out boundaries.png
    python tools/decision_boundary.py --losses arcface arcface:m=0.3 curricularface --out arc.png
    python tools/decision_boundary.py --losses adaface magface --move norm 10 100 --gif norm.gif
    python tools/decision_boundary.py --losses curricularface --move t 0 1 --gif t.gif

A sample lies θ₁ from the centre of class 1 and θ₂ from that of class 2. On the blue line training is
indifferent for a sample of class 1, its own logit equals the other; on the red line for one of class 2. The
grey between them is the margin: whatever its class, a sample there has the larger logit for the other.
Where that depends on the norm of the feature, there is a line for each of --norms, and grey is what is
margin at any of them. Running statistics are those of a long training on batches with --batch-norms and
--mean-cos.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from matplotlib.figure import Figure

from losses import MarginLoss
from tools.loss_pictures import Scene, argument_parser, make_pictures, small_multiples
from tools.loss_views import advantage
from utils.command_line import run_script
from utils.plots import MUTED

CLASS_1, CLASS_2 = "#0072b2", "#d55e00"  # told apart by every eye (Okabe and Ito)
TINTS = ("#d9eaf4", "#fae4d6")
MARGIN, BOTH = "#e4e7eb", "#c8b6d6"
DEGREES = np.linspace(0, 120, 481)  # farther from its own centre hardly any sample ever is
TICKS = (0, 30, 60, 90, 120)


def leads(loss: MarginLoss, norm: float) -> np.ndarray:
    """`(n, n)`, θ₂ by θ₁: by how much a sample of class 1 has the larger logit for its own class."""
    angles = torch.from_numpy(np.deg2rad(DEGREES))
    lead = advantage(loss, angles[None, :], angles[:, None], torch.tensor(norm)).numpy()
    return lead.clip(-1e3, 1e3)  # a class that was left out of the softmax has the logit −inf


def draw_panel(axes, label: str, lead: np.ndarray, scene: Scene) -> None:
    """One loss; `lead` is `(norms, n, n)`. Class 2's lead is class 1's with the angles exchanged."""
    first = (lead > 0).all(0)
    region = np.select([first & first.T, first, first.T], [3, 1, 2], 0)
    axes.contourf(DEGREES, DEGREES, region, [-0.5, 0.5, 1.5, 2.5, 3.5], colors=[MARGIN, *TINTS, BOTH])
    for values, norm in zip(lead, scene.norms) if moves(lead) else [(lead[0], None)]:
        for field, colour in ((values, CLASS_1), (values.T, CLASS_2)):
            line = colour if norm is None else scene.norm_colour(norm)
            axes.contour(DEGREES, DEGREES, field, [0], colors=[line], linewidths=1.8)
    axes.text(0.04, 0.95, "class 1", color=CLASS_1, transform=axes.transAxes, va="top")
    axes.text(0.96, 0.05, "class 2", color=CLASS_2, transform=axes.transAxes, ha="right")
    middle, room = len(DEGREES) // 2, len(DEGREES) // 12
    if not region[range(middle - room, middle + room), range(middle + room, middle - room, -1)].any():
        axes.text(
            0.5, 0.5, "margin", color=MUTED, transform=axes.transAxes, ha="center", va="center", rotation=45
        )
    axes.set(title=label, aspect="equal", xticks=TICKS, yticks=TICKS)
    axes.xaxis.set_major_formatter("{x:.0f}°")
    axes.yaxis.set_major_formatter("{x:.0f}°")
    axes.grid(False)


def moves(lead: np.ndarray) -> bool:
    """Whether the boundary depends on the norm; a lead that only grows with it moves nothing."""
    return bool((np.sign(lead) != np.sign(lead[:1])).any())


def draw(figure: Figure, scene: Scene) -> np.ndarray:
    """A panel for each loss; returns what decides the picture, the signs of the leads."""
    panels = small_multiples(figure, len(scene.losses), columns=5, side=2.3)
    all_leads = [np.stack([leads(loss, norm) for norm in scene.norms]) for _, loss in scene.losses]
    for (axes,), (label, _), lead in zip(panels, scene.losses, all_leads):
        draw_panel(axes, label, lead, scene)
    figure.supxlabel("θ₁, angle to the centre of class 1", color=MUTED, fontsize=10)
    figure.supylabel("θ₂, angle to the centre of class 2", color=MUTED, fontsize=10)
    if any(map(moves, all_leads)):
        scene.add_norm_colours(figure, [axes for (axes,) in panels])
    return np.sign(np.stack(all_leads))


if __name__ == "__main__":
    run_script(lambda: make_pictures(argument_parser(__doc__).parse_args(), draw))
