"""Several runs beside one another: which settings differ, what came out, and curves in common charts."""

from collections.abc import Sequence

from prettytable import PrettyTable

from reports.curves import ACCURACY, LEARNING_RATE, LOSS, SPEED, Panel, accuracies, chart, series_of
from reports.page import Page, in_words
from reports.run_files import RunFiles, differing
from reports.run_page import PANELS
from utils.files import unlike_names


def names_of(runs: Sequence[RunFiles]) -> list[str]:
    """A name for each run: of its folder, with so many folders above as tell the runs apart.

    Raises:
        ValueError: one folder is named twice.
    """
    return unlike_names([run.folder for run in runs])


def settings_table(runs: Sequence[RunFiles]) -> PrettyTable | None:
    """The settings, and facts such as the number of images, in which the runs differ; None: in none."""
    names = names_of(runs)
    facts = ("num_classes", "num_image", "global_batch", "world_size", "device", "parameters")
    known = [run.config | {name: run.run[name] for name in facts if name in run.run} for run in runs]
    found = differing(dict(zip(names, known)))
    if not found:
        return None
    table = PrettyTable(["setting", *names])
    table.add_rows([[name, *map(in_words, values)] for name, values in found.items()])
    table.align = "l"
    return table


def results_table(runs: Sequence[RunFiles]) -> PrettyTable:
    """How far each run is, its last loss, its speed, and the last and best accuracy of each set."""
    verified = [run.verification() for run in runs]
    sets = list(dict.fromkeys(name for found in verified for name in found))
    table = PrettyTable(["run", "steps", "loss", "images/s", *(f"{name} % (best)" for name in sets)])
    for name, run, found in zip(names_of(runs), runs, verified):
        train = run.train
        last = train[-1] if train else {}
        steps = f"{last.get('step', 0):,}" + (f" of {run.total_steps:,}" if run.total_steps else "")
        accuracies = [
            f"{100 * found[of_set][0]:.2f} ({100 * found[of_set][1]:.2f})" if of_set in found else "–"
            for of_set in sets
        ]
        loss, speed = last.get("loss"), median([line.get("images_per_second") for line in train])
        row = ["–" if loss is None else f"{loss:.3f}", "–" if speed is None else f"{speed:,.0f}"]
        table.add_row([name, steps, *row, *accuracies])
    table.align = "r"
    table.align["run"] = "l"
    return table


def median(values: Sequence[float | None]) -> float | None:
    """The middle of the values that are there."""
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def comparison_page(runs: Sequence[RunFiles]) -> Page:
    """The page of several runs."""
    names = names_of(runs)
    page = Page("Comparison of runs", ", ".join(names))
    page.table(results_table(runs), "Results")
    table = settings_table(runs)
    if table is None:
        page.note("All runs have the same settings.")
    else:
        page.table(table, "Settings that differ", texts=True)
    page.heading("Curves over the steps")
    page.charts(_charts(runs, names))
    return page


def _charts(runs: Sequence[RunFiles], names: Sequence[str]) -> dict:
    """A chart for each verification set, and for each number that at least one run has."""
    charts = {}
    sets = dict.fromkeys(curve.name for run in runs for curve in accuracies(run.lines))
    for of_set in sets:
        curves = [
            curve._replace(name=name)
            for name, run in zip(names, runs)
            for curve in accuracies(run.lines)
            if curve.name == of_set
        ]
        charts[f"{ACCURACY.title}, {of_set}"] = chart(ACCURACY, curves)
    panels: dict[str, Panel] = {"loss": LOSS, "lr": LEARNING_RATE, "images_per_second": SPEED, **PANELS}
    for key, panel in panels.items():
        logged = [(name, run.train) for name, run in zip(names, runs)]
        logged = [(name, lines) for name, lines in logged if any(line.get(key) for line in lines)]
        if logged:
            charts[panel.title] = chart(panel, [series_of(lines, key, name) for name, lines in logged])
    return charts
