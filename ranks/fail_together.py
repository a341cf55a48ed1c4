"""Work of all ranks that fails on all of them, or on none: no rank waits for one that has left."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from utils.distributed import gather_objects, has_process_group, start_process_group, world_size
from utils.errors import GroupError, one_line


@contextmanager
def fail_together() -> Iterator[None]:
    """What fails inside on one rank fails on every rank, with the message of that rank.

    Every rank enters and leaves; leaving waits for all of them, and one short text a rank crosses the
    network. Inside, ranks may meet in nothing but further exchanges. Reading the config comes before there
    is a process group: a rank that fails there joins it only to say so, and the others hear of it at their
    first exchange.

    Raises:
        GroupError: what failed on the first of the ranks on which something failed, and on which. In a
            world of one, and for a fault of ours where it happened, the error itself.
    """
    try:
        yield
    except GroupError:  # all have heard of it
        raise
    except Exception as error:
        if getattr(error, "ranks_know", False):  # from a block within this one
            raise
        in_all = world_size() if has_process_group() else int(os.environ.get("WORLD_SIZE", "1"))
        if in_all == 1:
            raise
        if not has_process_group():
            start_process_group()
        is_ours = not isinstance(error, (ValueError, OSError))
        try:
            exchange(error=f"{type(error).__name__}: {error}" if is_ours else one_line(error))
        except GroupError as told:
            if not is_ours:
                raise told from error
        error.ranks_know = True
        raise
    if has_process_group():
        exchange()


def exchange(value=None, error: str | None = None) -> list:
    """The values of all ranks, in rank order; every rank brings one, or what went wrong instead.

    Raises:
        GroupError: something went wrong on a rank.
    """
    values, errors = zip(*gather_objects((value, error)))
    failed = [number for number, text in enumerate(errors) if text is not None]
    if failed:
        alike = len(failed) == world_size() and len(set(errors)) == 1
        raise GroupError(errors[0] if alike else f"rank {failed[0]}: {errors[failed[0]]}")
    return list(values)
