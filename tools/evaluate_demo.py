"""Run every protocol of eval/ on a model, with the data of tools/make_demo.py.

    python tools/evaluate_demo.py --model work_dirs/demo/model.pt --data data/demo
    python tools/evaluate_demo.py --model model.pt --data data/smoke --quick      # fewer images

The protocols and their arguments are listed in tools/demo/trees.py. Each one leaves a folder with its report
beside the model. The first that fails ends the run.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.demo.trees import PROTOCOLS, Protocol
from utils.command_line import run_script

EVAL = Path(__file__).resolve().parents[1] / "eval"


def command(name: str, protocol: Protocol, model: Path, data: Path, quick: bool) -> list[str]:
    """The command line that runs a protocol."""
    options = [option.format(data=data) for option in shlex.split(protocol.options)]
    paths = [str(data / path) for path in protocol.data]
    last = shlex.split(protocol.quick) if quick else []
    return [
        sys.executable,
        str(EVAL / f"{name}.py"),
        "--model",
        str(model),
        "--data",
        *paths,
        *options,
        *last,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="model.pt of a training run")
    parser.add_argument("--data", type=Path, required=True, help="folder of the demo data")
    parser.add_argument("--quick", action="store_true", help="fewer images: only to see that all of it runs")
    args = parser.parse_args()
    for name, protocol in PROTOCOLS.items():
        line = command(name, protocol, args.model, args.data, args.quick)
        print(shlex.join(["python", f"eval/{name}.py", *line[2:]]), flush=True)
        if code := subprocess.run(line).returncode:
            raise ValueError(f"eval/{name}.py ended with code {code}")
        report = Path(f"{args.model}.{name.removeprefix('eval_')}") / "report.html"
        if not report.is_file():
            raise FileNotFoundError(f"eval/{name}.py left no report {report}")


if __name__ == "__main__":
    run_script(main)
