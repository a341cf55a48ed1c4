"""Draw the logit of the own class and its gradient over the angle to that class, for each loss.

    python tools/loss_curves.py --out curves.png
    python tools/loss_curves.py --losses arcface arcface:gradient=straight_through --out arcface.png
    python tools/loss_curves.py --losses cosface arcface --move m 0 0.5 --gif m.gif
    python tools/loss_curves.py --gradient-scale --losses arcface adaface --out gradient_scale.png

Above, the logit of the own class over the angle θ to it; below, the gradient with respect to cos θ that the
network gets, which some losses define otherwise than as the derivative. Both are divided by the scale of the
logits, and by the norm where the logits are proportional to it. Grey is cos θ, without any margin. Where the
norm matters there is a curve for each of --norms. One other class has an angle of 60° to the sample.

--gradient-scale draws |∂loss/∂cos θ|, how strongly a sample is pulled to its centre, divided in the same way;
AdaFace's paper has such pictures. The angle of a point is θ, from the own centre on the right to one other
centre at the top; its distance is the norm. White is the decision boundary, dashed the one without a margin.

Running statistics are those after a long training on batches with --batch-norms and --mean-cos.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from reports.style import COLOURS, MUTED
from tools.helpers.loss_pictures import Picture, argument_parser, make_pictures, small_multiples
from tools.helpers.loss_views import advantage, gradient_scale, target_logit
from utils.command_line import run_script

DEGREES = np.linspace(0.25, 179.75, 719)
OTHER = math.radians(60)  # for NPCFace this is a hard negative where θ > 37°
PLAIN = "#b4bcc5"
STEEPEST = 2.0  # gradient scale of the last colour


def draw_curves(figure: Figure, picture: Picture) -> np.ndarray:
    """Logit and gradient of each loss; returns them."""
    angles = torch.from_numpy(np.deg2rad(DEGREES))
    plain = (angles.cos(), torch.ones_like(angles))
    panels = small_multiples(figure, len(picture.losses), columns=5, side=2.2, heights=(0.9, 0.65))
    numbers = []
    for stack, (label, loss) in zip(panels, picture.losses):
        curves = np.stack(
            [target_logit(loss, angles, OTHER, norm) for norm in picture.norms]
        )  # (norms, 2, n)
        numbers.append(curves)
        for row, axes in enumerate(stack):
            axes.plot(DEGREES, plain[row], color=PLAIN, linewidth=1.5)
            for curve, norm in zip(curves[:, row], picture.norms):
                colour = picture.norm_colour(norm) if moves(curves) else COLOURS[0]
                axes.plot(DEGREES, curve, color=colour, linewidth=1.8)
        stack[0].set(title=label, ylim=(-2.1, 1.1), yticks=(-2, -1, 0, 1))
        stack[1].set(ylim=(0, 2.6), yticks=(0, 1, 2), xlim=(0, 180), xticks=(0, 45, 90, 135, 180))
        stack[1].xaxis.set_major_formatter("{x:.0f}°")
    panels[0][0].set_ylabel("logit\n(grey: cos θ)")
    panels[0][1].set_ylabel("gradient")
    figure.supxlabel("θ, angle to the own class centre", color=MUTED, fontsize=10)
    if any(map(moves, numbers)):
        picture.add_norm_colours(figure, [axes for stack in panels for axes in stack])
    return np.stack(numbers)


def moves(curves: np.ndarray) -> bool:
    """Whether the curves depend on the norm, which is their first axis."""
    return not np.allclose(curves, curves[:1])


def draw_gradient_scale(figure: Figure, picture: Picture) -> np.ndarray:
    """Gradient scale of each loss over angle and norm; returns it."""
    ends = min(picture.norms), max(picture.norms)
    if ends[0] == ends[1]:
        raise ValueError(
            "--gradient-scale has the norm for an axis: give two --norms, and move another number"
        )
    theta = torch.linspace(0.25, 89.75, 180, dtype=torch.float64).deg2rad()
    norm = torch.linspace(*ends, 91, dtype=torch.float64)
    points = theta, math.pi / 2 - theta, norm[:, None]
    panels = small_multiples(
        figure, len(picture.losses), columns=3, side=3.0, heights=(1.1,), subplot_kw={"projection": "polar"}
    )
    colours = ScalarMappable(Normalize(0, STEEPEST), "viridis")
    numbers = []
    for (axes,), (label, loss) in zip(panels, picture.losses):
        numbers.append(gradient_scale(loss, *points).numpy())
        grid = theta.numpy(), norm.numpy()
        axes.pcolormesh(*grid, numbers[-1], norm=colours.norm, cmap=colours.cmap, rasterized=True)
        axes.contour(*grid, advantage(loss, *points), [0], colors="white", linewidths=1.5)
        axes.plot([math.pi / 4] * 2, ends, color="white", linewidth=1, linestyle=(0, (4, 4)))
        axes.set(title=label, thetamin=0, thetamax=90, rlim=(0, ends[1]))
        axes.set(xticks=np.deg2rad([0, 30, 60, 90]), rticks=np.linspace(0, ends[1], 3))
        axes.tick_params(labelleft=True, labelbottom=True)
        axes.grid(False)
    figure.supxlabel("distance: norm, angle: θ to the own class centre", color=MUTED, fontsize=10)
    bar = figure.colorbar(colours, ax=[axes for (axes,) in panels], shrink=0.6, aspect=30, extend="max")
    bar.set_label("gradient scale |∂loss/∂cos θ| / s", color=MUTED)
    bar.outline.set_visible(False)
    return np.stack(numbers)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--gradient-scale", action="store_true", help="draw that, over angle and norm")
    args = parser.parse_args()
    make_pictures(args, draw_gradient_scale if args.gradient_scale else draw_curves)


if __name__ == "__main__":
    run_script(main)
