"""Pictures of robustness: what they show is in the curves, and nothing is cut off or overlaps."""

from itertools import pairwise

import numpy as np
import pytest

from eval.eval_robustness import accuracy_table
from eval.robustness.curves import Correlation, Curve
from eval.robustness.perturbations import PERTURBATIONS
from eval.robustness.pictures import norm_figure, robustness_figure


def random_curves(models, sets, kinds):
    rng = np.random.default_rng(0)

    def curve(kind):
        amounts = (PERTURBATIONS[kind].clean, *PERTURBATIONS[kind].amounts)
        rates = rng.uniform(0.5, 1, (4, len(amounts)))
        norms = rng.normal(20, 3, (len(amounts), 40))
        return Curve(amounts, *rates, norms=norms, clean_norms=norms[0], correlation=Correlation(0.5, 0.1))

    return {model: {name: {kind: curve(kind) for kind in kinds} for name in sets} for model in models}


def test_the_picture_has_a_panel_a_perturbation_and_a_line_a_model_and_set():
    curves = random_curves(["a", "b"], ["hq", "lq"], ["rotation", "resolution", "jpeg"])
    figure = robustness_figure(curves)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["rotation", "resolution", "jpeg"]
    expected = [curves[model][name] for name in ("hq", "lq") for model in ("a", "b")]
    for axes, kind in zip(figure.axes, ("rotation", "resolution", "jpeg")):
        for line, kinds in zip(axes.get_lines(), expected, strict=True):
            assert np.allclose(line.get_xdata(), kinds[kind].amounts)
            assert np.allclose(line.get_ydata(), kinds[kind].accuracy)
            low, high = axes.get_ylim()
            assert low < kinds[kind].accuracy.min() <= kinds[kind].accuracy.max() < high
        lines = axes.get_lines()
        assert [line.get_color() == lines[0].get_color() for line in lines] == [True, False, True, False]
        assert [line.get_linestyle() for line in lines] == ["-", "-", "--", "--"]
    assert [axes.xaxis_inverted() for axes in figure.axes] == [False, True, True]  # clean at the left
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {"a, hq", "a, lq", "b, hq", "b, lq"}


def test_of_a_single_model_colours_tell_the_sets():
    figure = robustness_figure(random_curves(["a"], ["hq", "lq"], ["blur"]))
    first, second = figure.axes[0].get_lines()
    assert first.get_color() != second.get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["hq", "lq"]


@pytest.mark.parametrize("kinds", [["rotation"], list(PERTURBATIONS)])
@pytest.mark.parametrize("names", ["ab", [f"{name}_r100_ms1mv2_with_a_long_name" for name in "abc"]])
def test_the_legend_is_inside_the_picture_and_above_the_panels(kinds, names):
    figure = robustness_figure(random_curves(names, [f"survface_training_{name}" for name in names], kinds))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    inner = legend.get_window_extent()
    assert figure.bbox.x0 <= inner.x0 < inner.x1 <= figure.bbox.x1
    assert inner.y1 <= figure.bbox.y1
    assert inner.y0 >= max(axes.get_window_extent().y1 for axes in figure.axes)
    assert min(axes.get_window_extent().height for axes in figure.axes) > 1.4 * figure.dpi


def test_a_band_shows_one_standard_error_around_each_curve():
    curves = random_curves(["a", "b"], ["hq"], ["rotation"])
    (axes,) = robustness_figure(curves).axes
    for band, model in zip(axes.collections, curves, strict=True):
        curve = curves[model]["hq"]["rotation"]
        corners = band.get_paths()[0].vertices
        for amount, mean, error in zip(curve.amounts, curve.accuracy, curve.std / 3):  # ten folds
            heights = corners[np.isclose(corners[:, 0], amount), 1]
            assert (heights.min(), heights.max()) == pytest.approx((mean - error, mean + error))
    ((row, _),) = [accuracy_table(curves, "rotation").rows]
    first = curves["a"]["hq"]["rotation"]
    assert row[2] == f"{100 * first.accuracy[0]:.1f} ± {100 * first.std[0] / 3:.1f}"


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_ticks_of_the_usual_amounts_do_not_touch(kind):
    figure = robustness_figure(random_curves(["a"], ["hq"], list(PERTURBATIONS)))
    figure.draw_without_rendering()
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left") == kind]
    assert_apart(axes)


def assert_apart(axes):
    """The labels of the x axis that are seen, from left to right."""
    low, high = sorted(axes.get_xlim())
    labels = [
        text for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high and text.get_text()
    ]
    extents = sorted((label.get_window_extent() for label in labels), key=lambda extent: extent.x0)
    assert len(extents) > 1
    for left, right in pairwise(extents):
        assert left.x1 + 8 < right.x0  # pixels


def test_norms_have_a_block_a_model_with_every_set_and_survive_a_norm_that_is_constant():
    curves = random_curves(["a", "b"], ["hq", "lq"], ["blur", "noise"])
    for name in ("hq", "lq"):
        curves["b"][name]["blur"].norms[:] = curves["b"][name]["noise"].norms[:] = 7
    figure = norm_figure(curves)
    assert [block.get_suptitle() for block in figure.subfigs] == ["a", "b"]
    titles = [axes.get_title(loc="left") for axes in figure.subfigs[0].axes]
    assert titles == ["clean sets", "blur, hq", "noise, hq", "blur, lq", "noise, lq"]
    figure.savefig("/dev/null", format="png")


@pytest.mark.parametrize("spread", [1e-5, 1e-2, 1, 1000])
def test_ticks_of_norms_are_plain_numbers_that_do_not_touch(spread):
    curves = random_curves(["a"], ["hq"], ["blur"])
    curve = curves["a"]["hq"]["blur"]
    curve.norms[:] = 5017 + spread * (curve.norms - 20)
    figure = norm_figure(curves)
    figure.draw_without_rendering()
    for axes in figure.subfigs[0].axes:
        assert axes.xaxis.get_offset_text().get_text() == ""
        assert_apart(axes)
