"""A report: the same files from the same numbers, JSON that any reader takes, one page that needs nothing."""

import json
import re

import numpy as np
import pytest
from prettytable import PrettyTable

from eval.figures import NARROWEST, cmc_figure, cosine_figure, det_figure, roc_figure
from eval.report import Report, as_json

FAR = np.array([0, 1e-4, 1e-3, 1e-2, 1])
CURVES = {"a": (FAR, np.array([0.1, 0.5, 0.8, 0.9, 1])), "b": (FAR, np.array([0, 0.2, 0.4, 0.8, 1]))}


def small_report(settings=None) -> Report:
    report = Report("eval_x", settings or {"models": [{"file": "a<b>.pt", "sha256": "12"}], "ranks": 2})
    table = PrettyTable(["set", "rank-1 %"])
    table.add_row(["<tiny & small>", "12.34 ± 0.50"])
    report.table(table, "Closed set")
    report.note("FPIR of probes, not of pairs.")
    report.picture("roc", roc_figure(CURVES), "ROC")
    report.numbers(
        "closed", {"rank": np.array([1, 5]), "rate": np.array([0.1, 1 / 3]), "auc": np.float32("nan")}
    )
    return report


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_numbers_make_the_same_files_and_replace_older_ones(tmp_path, capsys):
    for name in ("results.json", "report.html", "roc.png"):
        (tmp_path / name).write_text("of an earlier run" * 100_000)
    small_report().write(tmp_path)
    first = contents(tmp_path)
    small_report().write(tmp_path)
    assert contents(tmp_path) == first
    assert set(first) == {"results.json", "report.html", "roc.png"}
    assert all(b"earlier" not in content for content in first.values())


def test_pictures_of_an_earlier_report_go_and_nothing_else(tmp_path):
    outside = tmp_path / "kept.png"
    out = tmp_path / "out"
    earlier = small_report()
    earlier.picture("cmc", cmc_figure(CURVES))
    earlier.write(out)
    for path in (outside, out / "mine.png", out / "roc.txt"):
        path.write_text("the user's")
    small_report().write(out)
    names = {"results.json", "report.html", "roc.png"}
    assert {path.name for path in out.iterdir()} == names | {"mine.png", "roc.txt"}
    # Whatever else a file of this name says, and that a picture has gone already, is no error.
    for text in ('{"pictures": ["../kept", "gone", 7, "sub/x"]}', '{"pictures": 3}', "[1]", "no JSON", "{}"):
        (out / "results.json").write_text(text)
        small_report().write(out)
    assert outside.exists()
    assert {path.name for path in out.iterdir()} == names | {"mine.png", "roc.txt"}


def test_the_json_file_keeps_full_precision_and_has_null_for_nan(tmp_path):
    small_report().write(tmp_path / "new" / "folder")

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    found = json.loads((tmp_path / "new" / "folder" / "results.json").read_text(), parse_constant=refuse)
    assert found["closed"] == {"rank": [1, 5], "rate": [0.1, 1 / 3], "auc": None}
    assert found["title"] == "eval_x"
    assert found["settings"]["ranks"] == 2
    assert {"git", "versions", "hardware"} <= set(found)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({0.1: np.float64(0.5), "b": (1, np.int64(2))}, {"0.1": 0.5, "b": [1, 2]}),
        (np.array([[True, False]]), [[True, False]]),
        ([np.inf, -np.inf, np.nan, None], [None, None, None, None]),
        (np.float64("nan"), None),
        (np.array(3), 3),
    ],
)
def test_numpy_becomes_json(value, expected):
    assert as_json(value) == expected


def test_tables_and_notes_are_printed_in_order(tmp_path, capsys):
    small_report().write(tmp_path)
    said = capsys.readouterr().out
    positions = [
        said.index(text) for text in ("Closed set", "<tiny & small>", "FPIR of probes", str(tmp_path))
    ]
    assert positions == sorted(positions)


def test_the_page_is_self_contained_and_escapes_what_it_is_given(tmp_path):
    small_report().write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'(?:src|href)="([^"]{0,22})', page) == ["data:image/png;base64,"]
    assert "http" not in page
    assert "&lt;tiny &amp; small&gt;" in page
    assert "a&lt;b&gt;.pt" in page
    assert "<tiny" not in page
    for text in ("12.34 ± 0.50", "Closed set", "FPIR of probes, not of pairs.", "torch", "<h1>eval_x</h1>"):
        assert text in page


def lines(figure):
    return figure.axes[0].get_lines()


def test_the_cosines_of_a_collapsed_network_are_not_magnified():
    cosines = 1 - 1e-6 * np.arange(20)
    axes = cosine_figure(cosines, np.arange(20) % 2 == 0, np.ones(10), "x").axes[0]
    assert np.diff(axes.get_xlim()) >= NARROWEST


def test_roc_and_cmc_show_the_curves_on_log_axes():
    figure = roc_figure(CURVES, x="FPIR", y="TPIR")
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "FPIR", "TPIR")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    for line, curve in zip(lines(figure), CURVES.values()):
        assert np.array_equal(line.get_xydata(), np.stack(curve, axis=1)[1:])  # no place for a FAR of 0
    assert axes.get_ylim()[0] > 0.15  # nor do the rates there count
    assert cmc_figure({"a": (np.arange(1, 21), np.linspace(0.5, 1, 20))}).axes[0].get_xscale() == "log"


def test_det_shows_the_misses_of_the_same_curves():
    figure = det_figure(CURVES)
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")
    assert np.allclose(lines(figure)[0].get_ydata(), [0.5, 0.2, 0.1])  # no place for a FAR or a miss of 0


def test_a_curve_of_a_million_corners_is_drawn_with_few_and_looks_the_same():
    far = np.arange(1_000_001) / 1_000_000
    tar = far**0.1
    x, y = lines(roc_figure({"a": (far, tar)}))[0].get_data()
    assert len(x) < 20_000
    assert (x[0], y[0], x[-1], y[-1]) == (far[1], tar[1], 1, 1)
    assert np.abs(np.interp(far, x, y) - tar)[1:].max() < 1e-3


def test_a_curve_without_a_false_accept_is_no_error():
    report = Report("x", {})
    report.picture("roc", roc_figure({"perfect": (np.zeros(3), np.ones(3))}))
    assert report.pictures["roc"].startswith(b"\x89PNG")
    axes = det_figure({"perfect": (np.array([0, 0, 1]), np.array([0, 1, 1])), "a": CURVES["a"]}).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["perfect (no error to show)", "a"]


def test_rates_that_stay_at_100_percent_have_nothing_above_them():
    all_found = cmc_figure({"a": (np.arange(1, 21), np.ones(20))}).axes[0]
    assert all_found.get_ylim()[0] < 1 < all_found.get_ylim()[1] < 1.01
    assert cmc_figure({"a": (np.arange(1, 3), np.array([0.1, 0.2]))}).axes[0].get_ylim()[1] < 0.21


def test_a_curve_of_one_point_is_a_dot():
    curves = {"few": (np.array([0, 0.5, 1]), np.array([0, 0.9, 1])), "more": CURVES["a"]}
    few, more = lines(det_figure(curves))
    assert (len(few.get_xdata()), few.get_marker(), more.get_marker()) == (1, "o", "None")


def test_a_curve_whose_points_coincide_is_a_dot():
    nearly = np.array([1 - 1e-6, 1 - 1e-7, 1])
    for far in (np.ones(400), nearly):
        dot, more = lines(roc_figure({"dead": (far, far), "more": CURVES["a"]}))
        assert (len(dot.get_xdata()), dot.get_marker(), more.get_marker()) == (1, "o", "None")


@pytest.mark.parametrize("figure", [roc_figure, det_figure])
def test_no_rate_above_one_is_shown(figure):
    for curve in (CURVES["a"], (np.ones(3), np.zeros(3)), (np.full(3, 0.01), np.full(3, 0.5))):
        axes = figure({"a": curve}).axes[0]
        left, right = axes.get_xlim()
        assert left <= right / 10  # a decade at least: a log axis of less has hardly a number
        assert right <= 1
        assert axes.get_ylim()[1] <= 1.005


@pytest.mark.filterwarnings("error")
def test_a_picture_of_perfect_and_of_dead_networks_alone_is_drawn_without_a_warning():
    report = Report("x", {})
    for far, tar in ((np.array([0, 0, 1]), np.array([0, 1, 1])), (np.ones(3), np.ones(3))):
        for figure in (roc_figure, det_figure):
            drawn = figure({"a": (far, tar)})
            report.picture("x", drawn)  # draws it: whatever warns is an error here
            assert drawn.axes[0].get_legend() is not None


def test_twenty_eight_curves_look_different():
    drawn = lines(roc_figure({str(i): CURVES["a"] for i in range(28)}))
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == 28
