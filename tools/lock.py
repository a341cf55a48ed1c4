"""Writes requirements.lock: every package of this environment, at its version, with the hash of its file.

    make lock          # python tools/lock.py --out requirements.lock

pip is asked what it would install for requirements.txt at the versions that are installed here; nothing is
installed. The hashes are of the files for this platform and Python alone. No index's address is written:
`pip install --require-hashes -r requirements.lock` takes the files from wherever pip is set up to look.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.command_line import run_script
from utils.files import whole_file

HEADER = """\
# Every package that requirements.txt brings, with the hash of its file: {platform}, Python {python}.
# Made by `make lock`. docs/reliability.md says how to install from it, also without a network.
"""


def pip(*arguments: str) -> str:
    """What pip prints; a ValueError with the last line of its complaint."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"pip {arguments[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def chosen() -> dict[str, tuple[str, str]]:
    """Name -> version and sha256 of the file that pip would install."""
    with tempfile.TemporaryDirectory() as folder:
        installed = Path(folder) / "installed.txt"
        installed.write_text(pip("freeze"))
        wanted = ("-r", str(ROOT / "requirements.txt"), "-c", str(installed))
        report = pip("install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", *wanted)
    found = {}
    for item in json.loads(report)["install"]:
        hashes = item["download_info"]["archive_info"].get("hashes", {})
        name, version = item["metadata"]["name"].lower().replace("_", "-"), item["metadata"]["version"]
        if "sha256" not in hashes:
            raise ValueError(f"the index tells no sha256 of {name} {version}")
        found[name] = version, hashes["sha256"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args()
    where = f"{platform.system()} {platform.machine()}"
    text = HEADER.format(platform=where, python=platform.python_version().rpartition(".")[0])
    for name, (version, digest) in sorted(chosen().items()):
        text += f"{name}=={version} \\\n    --hash=sha256:{digest}\n"
    with whole_file(args.out) as partial:
        partial.write_text(text)


if __name__ == "__main__":
    run_script(main)
