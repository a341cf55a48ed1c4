"""report.html in the folder of a run: what ran, how it went, what it found hard, with which settings.

The page is made of the files in the folder alone, so it can be made again at any time, of an unfinished run
too: `python tools/run_report.py RUN`. It needs no network and no other file. It shows faces of the training
data: treat it like them.
"""

import base64
from pathlib import Path
from typing import Any

from prettytable import PrettyTable

from reports.curves import ACCURACY, LEARNING_RATE, LOSS, SPEED, Panel, accuracies, chart, series_of
from reports.page import Page, in_words
from reports.run_files import RunFiles, differing, read_run
from utils.config import changed_settings

PANELS = {
    "norm": Panel("Norm of the embeddings, mean", "{:.2f}"),
    "own_cosine": Panel("Cosine to the own class, mean", "{:.3f}"),
    "data_wait": Panel("Share of the time spent waiting for images", "{:.0%}", from_zero=True),
    "memory_mib": Panel("Memory at its peak, MiB", "{:,.0f}", smooth=False, from_zero=True),
    "ce": Panel("Cross-entropy (ce)"),
    "skipped": Panel("Steps skipped, as numbers were not finite", "{:,.0f}", smooth=False),
}
OF_EVERY_RUN = ("kind", "step", "epoch", "loss", "lr", "images_per_second")


def write_run_page(folder: str | Path, html: str | Path) -> None:
    """Make the page of the run in `folder`, and write it to the file `html`."""
    Path(html).write_text(run_page(read_run(folder)).html(), encoding="utf-8", errors="backslashreplace")


def run_page(run: RunFiles) -> Page:
    """The page of one run."""
    page = Page(run.name, run.run.get("command", ""))
    page.definitions(_summary(run))
    if rows := run.verification():
        page.table(_verification(rows), "Verification")
    _charts(page, run)
    if (samples := run.folder / "aroface_samples.png").is_file():
        page.figure(samples.read_bytes(), "Faces that ARoFace warped in the first step: before, and after")
    if run.hard:
        _hard_samples(page, run.hard)
    _settings(page, run)
    return page


def _summary(run: RunFiles) -> dict[str, Any]:
    """What ran, and how far."""
    config, facts, train = run.config, run.run, run.train
    last = train[-1] if train else {}
    step, total = last.get("step", 0), run.total_steps
    state = f"{step:,} of {total:,} steps" if total else f"{step:,} steps"
    if total and step < total:
        state += " (not finished)"
    hardware = facts.get("hardware", {})
    device = ", ".join(hardware.get("gpus") or [hardware.get("processor") or "CPU"])
    loss = last.get("loss")
    return {
        "state": state + (f", {last['epoch']:.1f} epochs" if "epoch" in last else ""),
        "last loss": "–" if loss is None else f"{loss:.3f}",
        "network": f"{config.get('network')}, {facts.get('parameters', 0) / 1e6:.1f} million parameters",
        "loss": f"{config.get('loss')} ({in_words(config.get('loss_args') or {})})",
        "data": f"{config.get('rec')}: {_count(facts, 'num_image')} images, "
        f"{_count(facts, 'num_classes')} identities",
        "batch": f"{_count(facts, 'global_batch')} images on {_count(facts, 'world_size')} process(es)",
        "precision": config.get("precision"),
        "device": device,
        "started": facts.get("started"),
        "code": " ".join(str(part) for part in (facts.get("git") or {}).values() if isinstance(part, str)),
    }


def _count(facts: dict[str, Any], name: str) -> str:
    return f"{facts[name]:,}" if isinstance(facts.get(name), int) else "?"


def _verification(rows: dict[str, tuple[float, float, int]]) -> PrettyTable:
    table = PrettyTable(["set", "last accuracy %", "best %", "best at step"])
    for name, (last, best, step) in rows.items():
        table.add_row([name, f"{100 * last:.2f}", f"{100 * best:.2f}", f"{step:,}"])
    return table


def _charts(page: Page, run: RunFiles) -> None:
    """Curves of everything that metrics.jsonl holds; what is not of every run goes by its name there."""
    train = run.train
    if not train:
        page.note("No step has been logged yet.")
        return
    known = (*OF_EVERY_RUN, *PANELS)
    others = dict.fromkeys(key for line in train for key in numbers_in(line) if key not in known)
    panels = {key: Panel(f"Logged as {key}") for key in others}
    panels |= {"lr": LEARNING_RATE, "images_per_second": SPEED}
    panels |= {key: panel for key, panel in PANELS.items() if any(line.get(key) for line in train)}
    charts = {LOSS.title: chart(LOSS, [series_of(train, "loss")])}
    if found := accuracies(run.lines):
        charts[ACCURACY.title] = chart(ACCURACY, found)
    charts |= {panel.title: chart(panel, [series_of(train, key)]) for key, panel in panels.items()}
    page.heading("Curves over the steps")
    page.charts(charts)


def numbers_in(line: dict[str, Any]) -> list[str]:
    """The names of its numbers."""
    return [name for name, value in line.items() if isinstance(value, int | float | None)]


def _hard_samples(page: Page, hard: dict[str, Any]) -> None:
    """The samples and identities with the smallest cosines to their own class."""
    page.heading("The hardest samples")
    page.note(
        f"The smallest cosines to the centre of the own class, among {hard['seen']:,} images that logged "
        f"steps of epoch {hard['epoch'] + 1} saw on rank 0. Wrong labels, unusable crops and mixed "
        "identities come first here."
    )
    page.faces([(_jpeg(sample["image"]), _caption(sample)) for sample in hard["samples"]])
    if hard["identities"]:
        page.heading("The hardest identities")
    for identity in hard["identities"]:
        page.note(
            f"Class {identity['label']}: mean cosine {identity['cosine']:.3f} over {identity['seen']} images"
        )
        page.faces([(_jpeg(image["image"]), image["name"]) for image in identity["images"]])


def _caption(sample: dict[str, Any]) -> str:
    return (
        f"cosine {sample['cosine']:.2f}, norm {sample['norm']:.1f}, class {sample['label']}, {sample['name']}"
    )


def _jpeg(text: str) -> bytes:
    return base64.b64decode(text)


def _settings(page: Page, run: RunFiles) -> None:
    """What differs from the defaults, what changed between the parts of the run, and everything."""
    page.definitions(changed_settings(run.config), "Settings that differ from configs/base.py")
    parts = [*run.earlier, run.config]
    changed = differing({str(number): part for number, part in enumerate(parts)})
    if len(parts) > 1:
        page.heading(f"The run has {len(parts)} parts")
        if changed:
            table = PrettyTable(["setting", *(f"part {number + 1}" for number in range(len(parts)))])
            table.add_rows([[name, *map(in_words, values)] for name, values in changed.items()])
            page.table(table, texts=True)
        else:
            page.note("All had the same settings.")
    with page.folded("All settings, versions, hardware"):
        page.definitions(run.config, "Settings")
        page.definitions(run.run, "Run")
