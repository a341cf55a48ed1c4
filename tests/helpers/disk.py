"""Disks that are full, and files that are damaged."""

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Inside, this process cannot make a file larger: writing fails as on a full disk, with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def damaged(data: bytes, seed: int) -> bytes:
    """The bytes of a file with one bit flipped, or a block of 512 read as zeros."""
    chance, result = random.Random(seed), bytearray(data)
    # Half of them where an archive keeps its books, at both ends.
    ends = [*range(min(600, len(data))), *range(max(0, len(data) - 3000), len(data))]
    position = chance.choice(ends) if seed % 2 else chance.randrange(len(data))
    if seed % 5 == 4:
        block = slice(position // 512 * 512, position // 512 * 512 + 512)
        result[block] = bytes(len(result[block]))
    else:
        result[position] ^= 1 << chance.randrange(8)
    return bytes(result)
