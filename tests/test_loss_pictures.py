"""The tools that draw losses: a panel for every loss that there is or will be, animations, mistakes."""

import numpy as np
import pytest
from PIL import Image

from helpers.interface_losses import Drawing, HardNegatives, Learning
from losses import LOSSES
from tools import decision_boundary, loss_curves
from tools.helpers.loss_pictures import argument_parser, make_pictures


def pictures(draw, *arguments) -> None:
    make_pictures(argument_parser("").parse_args(list(map(str, arguments))), draw)


DRAWS = (decision_boundary.draw, loss_curves.draw_curves, loss_curves.draw_gradient_scale)
every_draw = pytest.mark.parametrize("draw", DRAWS, ids=["boundaries", "curves", "gradient_scale"])


@every_draw
def test_every_loss_has_a_panel_of_finite_numbers(tmp_path, draw):
    drawn = []

    def draw_and_keep(figure, picture):
        drawn.append(draw(figure, picture))
        titles = [axes.get_title("left") for axes in figure.axes]
        assert [title for title in titles if title] == list(LOSSES)
        return drawn[0]

    pictures(draw_and_keep, "--out", tmp_path / "all.png")
    assert len(drawn[0]) == len(LOSSES)
    assert np.isfinite(drawn[0]).all()
    with Image.open(tmp_path / "all.png") as picture:
        assert min(picture.size) > 500


@every_draw
@pytest.mark.parametrize("loss", [Drawing, HardNegatives, Learning])
def test_a_loss_that_joins_the_registry_joins_the_picture(tmp_path, monkeypatch, draw, loss):
    monkeypatch.setitem(LOSSES, "new", loss)
    drawn = []
    pictures(lambda *args: drawn.append(draw(*args)), "--losses", "new", "--out", tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 5000
    assert np.isfinite(drawn[0]).all()


def test_a_picture_names_its_losses(tmp_path):
    pictures(loss_curves.draw_curves, "--losses", "arcface:m=0.3", "cosface", "--out", tmp_path / "two.png")
    with Image.open(tmp_path / "two.png") as picture:
        assert picture.text["Title"] == "arcface, m=0.3; cosface"


@pytest.mark.parametrize(
    ("losses", "move"),
    [
        (["adaface"], ("norm", 10, 90)),
        (["curricularface"], ("t", 0, 1)),
        (["uniface"], ("bias", 0, 20)),
        ([], ("m1", 0, 1)),
    ],
)
def test_an_animation_goes_there_and_back(tmp_path, losses, move):
    chosen = ["--losses", *losses] if losses else []
    gif = tmp_path / "moving.gif"
    pictures(decision_boundary.draw, *chosen, "--move", *move, "--gif", gif, "--frames", 3)
    frames = []
    with Image.open(gif) as animation:
        for index in range(animation.n_frames):
            animation.seek(index)
            frames.append(np.asarray(animation.convert("RGB"), dtype=float))
    assert len(frames) == 4
    assert np.abs(frames[1] - frames[3]).mean() < np.abs(frames[1] - frames[2]).mean() / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--losses arcfase --out a.png", "'arcfase'; did you mean 'arcface'"),
        ("--losses arcface:easy_margn=True --out a.png", "did you mean 'easy_margin'"),
        ("--losses arcface:m --out a.png", "'m' is no setting=value"),
        ("--losses arcface:m=wide --out a.png", "m='wide' is of the wrong type: it has to be a number"),
        ("--losses arcface:m=4 --out a.png", "m=4 is out of range"),
        ("--losses sphereface --move cosweight 0 1 --gif a.gif", "'cosweight'; did you mean 'cos_weight'"),
        ("--losses arcface --move easy_margin 0 1 --gif a.gif", "has a number 'easy_margin'"),
        ("--losses arcface --move s 16 64 --gif a.gif", "from 16 to 64 nothing moves"),
        ("--move norm 0 50 --gif a.gif", "--move norm"),
        ("--losses arcface", "nothing to write"),
        ("--move m 0 1 --out a.png", "go together"),
        ("--gif a.gif", "go together"),
        ("--out a.png --norms 10 -1", "--norms"),
        ("--out a.png --batch-norms 0 1", "--batch-norms"),
        ("--out a.png --mean-cos 2", "--mean-cos"),
        ("--move m 0 1 --gif a.gif --frames 1", "--frames"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        pictures(decision_boundary.draw, *arguments.split())
    assert not list(tmp_path.iterdir())


def test_gradient_scale_needs_more_than_one_norm(tmp_path):
    with pytest.raises(ValueError, match="norm for an axis"):
        pictures(
            loss_curves.draw_gradient_scale, "--losses", "arcface", "--norms", 5, "--out", tmp_path / "a.png"
        )
