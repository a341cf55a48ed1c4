"""Make report.html and curves.png of runs anew, from the files in their folders; runs may be going on.

    python tools/run_report.py work_dirs/demo
    python tools/run_report.py work_dirs/*                       # each in its own folder
    python tools/run_report.py work_dirs/demo --out demo.html    # one run, to another file

A run writes both itself, every five minutes that it saves in and at its end; this is for a run that was
killed, for older ones, and for a look in between. The page holds faces of the training data.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reports.curves import plot_training_curves
from reports.run_page import write_run_page
from utils.command_line import run_script
from utils.files import whole_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output folder of a run")
    parser.add_argument("--out", type=Path, help="file to write to; default: report.html in the run's folder")
    args = parser.parse_args()
    if args.out and len(args.runs) > 1:
        raise ValueError(f"--out {args.out} is one file, but there are {len(args.runs)} runs: leave it out")
    for folder in args.runs:
        html = args.out or folder / "report.html"
        with whole_file(html) as partial:
            write_run_page(folder, partial)
        if not args.out:
            with whole_file(folder / "curves.png") as partial:
                plot_training_curves(folder / "metrics.jsonl", partial)
        print(f"written to {html}")


if __name__ == "__main__":
    run_script(main)
