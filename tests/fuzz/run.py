"""Reads many damaged and hostile inputs of each format, and counts what comes of them.

    python tests/fuzz/run.py --count 2000 --seed 1                  # each format
    python tests/fuzz/run.py --only mat bin --seconds 60            # as many as a minute allows

Ends with exit code 1 where an input ended a process, hung, took more than 2 GiB, ran as a program, was told
by a traceback or by an error that names no file, or was read as other numbers in spite of a checksum. Each
such input is named by its number; with the same --seed, `--only FORMAT --show NUMBER OUT` writes its files.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from prettytable import PrettyTable

from fuzz.targets import TARGETS, build, write
from fuzz.watch import FAULTS, mutated, watch
from utils.command_line import EndOfScript, run_script

SHOWN = 5  # faults of a format that are printed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=TARGETS, default=list(TARGETS), help="formats (all)")
    add("--count", type=int, default=10**9, help="inputs of each format")
    add("--seconds", type=float, default=float("inf"), help="time for each format")
    add("--seed", type=int, default=0, help="other inputs")
    add("--show", nargs=2, metavar=("NUMBER", "OUT"), help="write the files of one input, read nothing")
    args = parser.parse_args()
    if args.show:
        return print(write(Path(args.show[1]), mutated(build(args.only[0]), args.seed, int(args.show[0]))))
    if args.count == 10**9 and args.seconds == float("inf"):
        raise ValueError("give --count or --seconds: otherwise it would not end")
    table = PrettyTable(["format", "inputs", "same", "other", "told", "faults", "seconds"], align="r")
    all_faults = 0
    for name in args.only:
        target, began = build(name), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
            counts, faults = watch(target, args.seed, args.count, Path(folder), until=began + args.seconds)
        all_faults += len(faults)
        row = [counts[kind] for kind in ("same", "other", "told")]
        table.add_row([name, counts.total(), *row, len(faults), f"{time.monotonic() - began:.0f}"])
        for number, kind, detail in faults[:SHOWN]:
            print(f"{name} {number}: {kind}: {detail[:300]}", flush=True)
    print(table)
    if all_faults:
        raise EndOfScript(f"error: {all_faults} faults ({', '.join((*FAULTS, 'changed'))})", code=1)


if __name__ == "__main__":
    run_script(main)
