"""Random numbers of images: those of the generator's authors, and each a function of its image alone."""

import numpy as np
import pytest

from loading.draws import Draws, philox

# Counter, key and result: the test vectors of the generator's authors (Random123, philox4x32, 10 rounds).
PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]
VECTORS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (PI[:4], PI[4:], [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_the_generator_gives_its_authors_numbers(counter, key, expected):
    counters = np.array([counter, counter[::-1]], np.uint32).T  # the second one shall not disturb
    assert philox(counters, np.array(key, np.uint32))[:, 0].tolist() == expected


def test_draws_depend_on_the_image_and_on_nothing_around_it():
    indices = np.array([3, 2**40 + 3, 0, 17])
    draws = Draws((2, 7, 1), indices)
    whole = draws.uniform(stream=1, count=9)
    assert np.array_equal(Draws((2, 7, 1), indices[::-1]).uniform(1, 9), whole[::-1])
    assert np.array_equal(draws.uniform(1, 3, rows=np.array([1, 3])), whole[[1, 3], :3])
    assert np.array_equal(draws.uniform(1, 9), whole)  # nothing was used up


def test_images_streams_seeds_and_epochs_share_no_number():
    keys, indices = [(2, 7, 0), (2, 7, 1), (2, 8, 0)], np.array([0, 1, 2**32, 2**33])
    found = [Draws(key, indices).uniform(stream, 6) for key in keys for stream in range(3)]
    assert len(np.unique(found)) == 3 * 3 * 4 * 6


def test_numbers_are_uniform_and_unrelated_within_an_image_and_between_neighbours():
    found = Draws((0,), np.arange(20_000)).uniform(0, 5)
    assert 0 <= found.min() < 1e-4 < 1 - 1e-4 < found.max() < 1
    counts = np.apply_along_axis(lambda column: np.histogram(column, 16, (0, 1))[0], 0, found)
    assert ((counts - 1250) ** 2 / 1250).sum(0).max() < 45  # chi², 15 degrees: 1e-4
    between = np.corrcoef(np.hstack([found[:-1], found[1:]]).T) - np.eye(10)
    assert np.abs(between).max() < 4.5 / 20_000**0.5
