"""Random numbers of images, for a whole batch at once, each a function of (seed, epoch, index) alone.

The generator is Philox4x32-10: Parallel random numbers: as easy as 1, 2, 3, John K. Salmon, Mark A. Moraes,
Ron O. Dror, David E. Shaw, SC 2011, https://doi.org/10.1145/2063384.2063405. It has no state that one draw
hands to the next: it mixes a counter, here an image's index, with a key, here of seed and epoch.
"""

import numpy as np

MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], "<u8")
ROUNDS = 10
KEY_STEPS = np.outer(np.arange(ROUNDS), [0x9E3779B9, 0xBB67AE85]).astype("<u4")[:, :, None]  # modulo 2³²


def philox(counters: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Four random numbers from each counter, `(4, n)` uint32.

    Args:
        counters: `(4, n)` uint32.
        key: `(2,)` uint32.
    """
    even, odd = counters[0::2], counters[1::2]  # (2, n) each
    for round_key in key[:, None] + KEY_STEPS:
        halves = np.multiply(even, MULTIPLIERS, order="C").view("<u4")[
            ::-1
        ]  # (2, 2n), the lower half of each product first
        even, odd = halves[:, 1::2] ^ odd ^ round_key, halves[:, 0::2]
    return np.stack([even, odd], axis=1).reshape(4, -1)


class Draws:
    """The random numbers of a batch of images.

    Args:
        numbers: whole numbers >= 0 that everything drawn depends on, beside an image's index.
        indices: `(n,)` int64, of the images.
    """

    def __init__(self, numbers: tuple[int, ...], indices: np.ndarray):
        self.key = np.random.SeedSequence(numbers).generate_state(2)
        self.indices = np.ascontiguousarray(indices, "<i8").view("<u4").reshape(-1, 2)  # lower half first

    def uniform(self, stream: int, count: int, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """`(images, count)` float64 in [0, 1), in steps of 2⁻³².

        Args:
            stream: draws of different streams have nothing to do with each other.
            rows: of which images; an image's numbers do not depend on what else is asked for.
        """
        indices, blocks = self.indices[rows], -(-count // 4)
        counters = np.empty((4, len(indices), blocks), "<u4")
        counters[0:2], counters[2], counters[3] = indices.T[:, :, None], stream, np.arange(blocks)
        found = philox(counters.reshape(4, -1), self.key).reshape(4, len(indices), blocks)
        return np.moveaxis(found, 0, 2).reshape(len(indices), 4 * blocks)[:, :count] * 2.0**-32
