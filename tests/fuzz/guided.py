"""The targets under atheris (pip install atheris; Linux): inputs that reach new branches of our readers.

    python tests/fuzz/guided.py --seconds 60               # for each of the formats that Python code reads
    python tests/fuzz/guided.py --only mat --seconds 3600

Ends with exit code 1 at the first input that is told otherwise than by a ValueError or OSError; atheris
writes it to the current folder. It sees branches of Python: decoders in C are left to run.py.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import atheris

GUIDED = ("rec", "idx", "bin", "mat", "text", "override")
INSTRUMENTED = ["dataset", "eval.readers", "utils.config", "utils.recordio", "utils.record_index"]
INSTRUMENTED += ["utils.record_layout", "utils.settings", "utils.typed_values", "utils.image_headers"]
MEMORY_MB, SECONDS = 3072, 10

with atheris.instrument_imports(include=INSTRUMENTED):
    from fuzz.targets import TARGETS, build, write


def fuzz(name: str, arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    target, folder = build(name), Path(tempfile.mkdtemp(prefix="fuzz_"))
    changed, files = target.changed[0], target.variants[0]

    def one(data: bytes) -> None:
        with suppress(ValueError, OSError):
            target.read(write(folder, files | {changed: data}))

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        return target.change(data, random.Random(seed))[:max_size]

    corpus = Path(tempfile.mkdtemp(prefix="fuzz_corpus_"))
    for number, variant in enumerate(target.variants):
        (corpus / str(number)).write_bytes(variant[changed])
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=sorted(set(TARGETS) & set(GUIDED)), default=list(GUIDED), help="formats")
    add("--seconds", type=int, default=60, help="time for each format")
    args = parser.parse_args()
    if len(args.only) == 1:
        limits = [f"-max_total_time={args.seconds}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SECONDS}"]
        fuzz(args.only[0], [*limits, "-max_len=200000", "-print_final_stats=1"])
    codes = [
        subprocess.run([sys.executable, __file__, "--only", name, "--seconds", str(args.seconds)]).returncode
        for name in args.only
    ]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
