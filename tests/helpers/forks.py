"""One process for each of pytest's imports everything and forks runs of train_v2.py, for any number of tests.

To import torch and the project takes seconds; a fork has them at once. The process ends with pytest's.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def in_fork(function: str, *args, timeout: float):
    """What `function(*args)` returns in a process of its own that has imported train_v2.py already.

    Args:
        function: "module.name"; arguments and result are what JSON holds.
    Raises:
        AssertionError: it raised (with its traceback), died, or took longer than `timeout` seconds.
    """
    with tempfile.NamedTemporaryFile(dir=tempfile.gettempdir(), suffix=".json") as answer:
        server = _server()
        print(json.dumps([function, args, os.getcwd(), answer.name]), file=server.stdin, flush=True)
        if not select.select([server.stdout], [], [], timeout)[0] or not server.stdout.readline():
            _stop(server)
            raise AssertionError(f"{function} did not finish within {timeout} s")
        failure, result = json.loads(answer.read() or '["died without a word", null]')
    assert failure is None, failure
    return result


@cache
def _server() -> subprocess.Popen:
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    program = [sys.executable, "-m", "helpers.forks"]
    return subprocess.Popen(program, cwd=TESTS, env=ENVIRONMENT, start_new_session=True, **pipes)


def _stop(server: subprocess.Popen) -> None:
    _server.cache_clear()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    server.stdin.close(), server.stdout.close()


# ---------------------------------------------------------------- in the process that forks


def prepare() -> None:
    """What takes each run a second is done once, before the forks."""
    import matplotlib.pyplot  # noqa: F401  (what a run imports late)
    import torch
    import torch._dynamo

    import reports.curves
    import train_v2  # noqa: F401
    from backbones import get_model
    from training.memory import bytes_of_activations

    torch.set_num_threads(1)
    # After a fork torch makes its pool of threads anew for the first that asks; two threads of autograd that
    # ask at once end the process with SIGABRT. So the main thread, still alone, asks before.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
    # torch remembers the shapes that it has worked out: the estimate of memory is quick in the forks.
    for name, settings in (("mbf", dict(blocks=(1, 1, 1, 1), scale=1)), ("vit_t", dict(depth=1, width=16))):
        network = get_model(name, num_features=32, **settings)
        bytes_of_activations(network, 4, torch.device("cpu"), "fp32", True)
    draw_curves = reports.curves.plot_training_curves

    def draw_where_asked(metrics_jsonl: Path, png: Path) -> None:
        """curves.png, which takes longer than the steps of a test, in runs with report=true alone."""
        if "report=true" in sys.argv:
            draw_curves(metrics_jsonl, png)
        else:
            png.write_text("not drawn")

    reports.curves.plot_training_curves = draw_where_asked


def answer_in_fork(name: str, args: list, folder: str, answer: str) -> None:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(2, 1)
    try:
        module, _, function = name.rpartition(".")
        found = None, getattr(importlib.import_module(module), function)(*args)
    except BaseException:
        found = traceback.format_exc(), None
    Path(answer).write_text(json.dumps(found))
    os._exit(0)


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS.parent))
    prepare()
    while request := sys.stdin.readline():
        answer_in_fork(*json.loads(request))
        print(flush=True)
