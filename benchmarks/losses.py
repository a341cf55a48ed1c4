"""The accuracy of every loss on the demo data, and what NDR and ARoFace add to it; trained from scratch.

    python tools/make_demo.py --out data/demo_100 --identities 100
    python benchmarks/losses.py rec=data/demo_100 warmup_epoch=0.4

Every run is one process of one thread with the same images in the same order, the same number of steps,
learning rate and network; key=value settings apply to all runs. The first table has each loss once, and its
difference to plain softmax. The second has softmax, CosFace, ArcFace and AdaFace, each alone, with NDR and
with ARoFace: mean ± standard deviation over the seeds, which change the initial weights and the order of the
images. Accuracies are those of the last step, in per cent.

A run whose result is in --out is not repeated: so a study that was stopped goes on.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import report
from utils.command_line import run_script
from utils.config import get_config
from utils.run_info import ROOT

ALONE = "demo_softmax"
MARGINS = [ALONE, "demo_cosface", "demo_arcface", "demo_adaface"]
METHODS = ("", "ndr", "aroface")
Run = tuple[str, str, int]  # preset, method that is added to it ("" for none), seed


def presets() -> list[str]:
    """Every demo_* preset, plain softmax first."""
    names = sorted(path.stem for path in (ROOT / "configs").glob("demo_*.py"))
    return [ALONE, *(name for name in names if name != ALONE)]


def settings_of(method: str) -> list[str]:
    """The setting with which the method's preset turns it on, as key=value."""
    if not method:
        return []
    setting = {"ndr": "regularizers", "aroface": "aroface"}[method]
    value = get_config(f"demo_{method}")[setting]
    return [f"{setting}={value}"]


def train(run: Run, out: Path, settings: list[str]) -> dict[str, float]:
    """Verification set -> accuracy in per cent. If the folder of the run has a result, it is not run again.

    Raises:
        RuntimeError: training failed; with the last lines that it printed.
    """
    preset, method, seed = run
    folder = out / "_".join([preset, method or "alone", str(seed)])
    if not (folder / "model.pt").exists():
        command = [sys.executable, "train_v2.py", f"configs/{preset}", "batch_size=64", *settings]
        command += [*settings_of(method), f"seed={seed}", f"output={folder}", "tensorboard=false"]
        # glibc keeps freed memory, see Makefile.
        memory = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
        environment = {**os.environ, **memory, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{(done.stdout + done.stderr)[-2000:]}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    accuracy = {line["set"]: 100 * line["accuracy"] for line in lines if line["kind"] == "eval"}
    print(preset, method or "alone", f"seed {seed}:", accuracy, flush=True)
    return accuracy


def losses_table(accuracy: dict[Run, dict[str, float]], names: Iterable[str]) -> list[dict]:
    """A row for each preset; after each accuracy, its difference to that of plain softmax."""
    softmax = accuracy[ALONE, "", 0]
    rows = []
    for name in names:
        row = {"preset": name}
        for verification_set, value in accuracy[name, "", 0].items():
            row |= {verification_set: f"{value:.1f} ({value - softmax[verification_set]:+.1f})"}
        rows.append(row)
    return rows


def methods_table(accuracy: dict[Run, dict[str, float]], margins: list[str], seeds: range) -> list[dict]:
    """A row for each loss with each method."""
    rows = []
    for name, method in itertools.product(margins, METHODS):
        runs = [accuracy[name, method, seed] for seed in seeds]
        row = {"loss": name.removeprefix("demo_"), "with": method or "–", "seeds": len(runs)}
        for verification_set in runs[0]:
            values = [run[verification_set] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            row[verification_set] = f"{statistics.mean(values):.1f} ± {spread:.1f}"
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of every run")
    parser.add_argument("--out", type=Path, default=ROOT / "work_dirs" / "losses", help="folder of the runs")
    parser.add_argument("--only", choices=("losses", "margins"), help="one of the two tables")
    parser.add_argument("--margins", nargs="+", default=MARGINS)
    parser.add_argument("--seeds", type=int, default=3, help="of the second table")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    args = parser.parse_intermixed_args()

    one_each = [] if args.only == "margins" else [(name, "", 0) for name in presets()]
    seeds = range(0 if args.only == "losses" else args.seeds)
    runs = list(dict.fromkeys([*one_each, *itertools.product(args.margins, METHODS, seeds)]))
    with ThreadPoolExecutor(args.jobs) as pool:
        accuracy = dict(zip(runs, pool.map(lambda run: train(run, args.out, args.settings), runs)))
    settings = {"settings": args.settings, "batch_size": 64, "threads": 1}
    if one_each:
        report("losses", losses_table(accuracy, presets()), settings)
    if seeds:
        report("methods", methods_table(accuracy, args.margins, seeds), settings)


if __name__ == "__main__":
    run_script(main)
