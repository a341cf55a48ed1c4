"""What every benchmark needs: a process for each measurement, time, peak memory, and the report."""

import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from prettytable import PrettyTable

from losses import build_loss
from partial_fc import PartialFC
from utils.run_info import git_state, hardware, versions

MIB = 1 << 20


def in_own_process(function: Callable, *arguments, timeout_s: float = 900) -> dict:
    """Run `function(*arguments)` in a new process, so that its peak memory is its own.

    Raises:
        RuntimeError: the process died (out of memory, say) or ran past the limit.
    """
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(send, function, arguments))
    process.start()
    send.close()
    try:
        if not receive.poll(timeout_s):
            raise RuntimeError(f"{function.__name__}{arguments} took longer than {timeout_s:.0f} s")
        return receive.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__}{arguments} died without a result; out of memory?") from None
    finally:
        process.kill()
        process.join()


def _send(pipe, function: Callable, arguments: tuple) -> None:
    pipe.send(function(*arguments))


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(function: Callable, *arguments) -> tuple[object, float]:
    """What the call returns, and the seconds that it takes, including the work of the GPU."""
    synchronize()
    start = time.perf_counter()
    result = function(*arguments)
    synchronize()
    return result, time.perf_counter() - start


def peak_memory() -> int:
    """Bytes: the most memory that this process has used so far (on a GPU: that its tensors have used)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def median_ms(seconds: list[float]) -> float:
    return 1000 * statistics.median(seconds)


def print_row(name: str, row: dict) -> None:
    """One row as a line of JSON, at once, so that a run that is cut short still tells."""
    print(json.dumps({"benchmark": name, **row}), flush=True)


def head_on_device(
    loss: str, embedding_size: int, num_classes: int, hyper: dict | None = None, **settings
) -> PartialFC:
    """A head whose centres are drawn on the device, equal for equal sizes: millions on a CPU take minutes."""

    def drawn(seed: int, start: int, count: int, size: int) -> torch.Tensor:
        generator = torch.Generator(device()).manual_seed(seed)
        return torch.empty(count, size, device=device()).normal_(0, 0.01, generator=generator)

    with mock.patch("partial_fc.initial_centres", drawn):
        return PartialFC(build_loss(loss, **hyper or {}), embedding_size, num_classes, **settings).to(
            device()
        )


def report(name: str, rows: list[dict], settings: dict) -> None:
    """Print the rows as a table, and everything as one line of JSON."""
    environment = {"git": git_state(), "versions": versions(), "hardware": hardware()}
    table = PrettyTable(list(rows[0]))
    table.align = "r"
    for row in rows:
        table.add_row([_readable(value) for value in row.values()])
    print(table)
    print(json.dumps({"benchmark": name, "settings": settings, "environment": environment, "rows": rows}))


def _readable(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
