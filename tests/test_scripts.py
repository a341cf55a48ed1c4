"""Every script runs from any directory: none relies on being started in the repository."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    ROOT / "train_v2.py",
    *(file for f in ("eval", "tools", "benchmarks") for file in (ROOT / f).glob("*.py")),
]
SCRIPTS = sorted(file for file in FILES if '__name__ == "__main__"' in file.read_text())

# Importing torch takes seconds: one process imports it, and no module of the project; then each script runs
# in a fork of it as `python SCRIPT --help` does.
FORKS = """
import os, runpy, sys, cv2, matplotlib.figure, numpy, sklearn, torch, torchvision
failed = []
for script in sys.argv[1:]:
    if (child := os.fork()) == 0:
        sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            print(script, repr(error))
            code = 1
        sys.stdout.flush()
        os._exit(code or 0)
    if os.waitpid(child, 0)[1]:
        failed.append(script)
sys.exit(" ".join(failed) or 0)
"""


def test_every_script_says_what_it_does_from_any_directory(tmp_path):
    assert {script.name for script in SCRIPTS} >= {"train_v2.py", "verification.py", "make_rec.py", "head.py"}
    command = [sys.executable, "-c", FORKS, *map(str, SCRIPTS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    for script in SCRIPTS:
        usage = f"python {script.relative_to(ROOT)}"
        assert usage in done.stdout, f"{usage} is nowhere in what the scripts say"
    assert list(tmp_path.iterdir()) == []
