"""Put runs beside one another: results, the settings that differ, and all curves in common charts.

    python tools/compare_runs.py work_dirs/demo work_dirs/demo_ndr
    python tools/compare_runs.py work_dirs/* --out comparison.html

Prints the two tables; with --out also writes a page that needs nothing else. Runs may be going on.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reports.comparison import comparison_page, results_table, settings_table
from reports.run_files import read_run
from utils.command_line import run_script
from utils.files import whole_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output folder of a run")
    parser.add_argument("--out", type=Path, help="HTML file to write")
    args = parser.parse_args()
    if len(args.runs) < 2:
        raise ValueError(f"one run, {args.runs[0]}: expected two or more (one alone: tools/run_report.py)")
    runs = [read_run(folder) for folder in args.runs]
    print(results_table(runs))
    print(settings_table(runs) or "all runs have the same settings")
    if args.out:
        page = comparison_page(runs)
        with whole_file(args.out) as partial:
            partial.write_text(page.html(), encoding="utf-8")
        print(f"written to {args.out}")


if __name__ == "__main__":
    run_script(main)
