"""Seeds of torch's generators as functions of where training stands, so that nothing random needs saving."""

import numpy as np


def seed_of(*numbers: int) -> int:
    """One seed, in [0, 2^63), from several whole numbers >= 0; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
