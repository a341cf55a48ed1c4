"""The same work on many things, in several processes, with the results in order."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

DEFAULT_WORKERS = min(8, os.cpu_count() or 1)


def ordered(
    function: Callable, jobs: Sequence, workers: int, start: Callable, arguments: tuple, method: str = "spawn"
) -> Iterator[Any]:
    """`function(job)` for each job, in order.

    Args:
        workers: processes, of one thread of OpenCV each; 0: this process does it.
        start: called as `start(*arguments)` in each process before the first job.
        method: "spawn" imports the script anew; "fork" needs no import and no pickling of the arguments.
    Raises:
        ValueError: a process has died.
    """
    if workers == 0:
        start(*arguments)
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(workers, context, _start, (start, arguments))
    try:
        yield from pool.map(function, jobs, chunksize=max(1, min(16, len(jobs) // (4 * workers))))
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process has died, perhaps for want of memory: --workers 1 needs less"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(start: Callable, arguments: tuple) -> None:
    cv2.setNumThreads(0)  # 1 would wait, after a fork, for the threads of the process before
    start(*arguments)
