"""Work of all ranks that fails on all of them, or on none."""

from collections.abc import Iterator
from contextlib import contextmanager

from utils.distributed import gather_objects, world_size
from utils.errors import one_line


@contextmanager
def fail_together() -> Iterator[None]:
    """Inside, an error that a user can meet (ValueError, OSError) on one rank is raised on every rank.

    Every rank enters and leaves; leaving waits for all of them, and one short text a rank crosses the
    network. Without this, the others would wait for a rank that is gone, and their errors would be of the
    network: a full disk of one machine would not be named.

    Raises:
        ValueError: what failed on the first of the ranks on which something failed, and on which.
            In a world of one, the error itself.
    """
    failure = None
    try:
        yield
    except (OSError, ValueError) as error:
        failure = error
    reasons = gather_objects(None if failure is None else one_line(failure))
    failed = [rank for rank, reason in enumerate(reasons) if reason is not None]
    if failed and world_size() == 1:
        raise failure
    if failed:
        raise ValueError(f"rank {failed[0]}: {reasons[failed[0]]}") from failure
