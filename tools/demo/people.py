"""What distinguishes the people of the demo data, and the expression and accessories in one photograph."""

import numpy as np

from tools.demo.canvas import SHAPE

# name: (lowest, highest, difference between the most masculine and the most feminine face)
# Lengths and positions are in face units (see canvas), angles in radians, all others are shares.
TRAITS = {
    "face_width": (0.98, 1.14, 0.03),  # half the width at the height of the eyes
    "cheek_width": (0.94, 1.02, -0.02),  # this and the next widths are shares of face_width
    "jaw_width": (0.74, 0.90, 0.08),
    "chin_width": (0.34, 0.48, 0.10),
    "temple_width": (0.74, 0.92, -0.04),
    "chin_y": (1.58, 1.76, 0.10),
    "ear_size": (0.22, 0.34, 0.03),
    "eye_x": (0.45, 0.55, 0.0),
    "eye_width": (0.40, 0.52, -0.02),
    "eye_height": (0.15, 0.25, -0.03),
    "eye_tilt": (-0.14, 0.20, -0.06),
    "iris_size": (0.085, 0.11, 0.0),
    "lid_crease": (0.02, 0.10, -0.01),
    "lashes": (0.02, 0.045, -0.02),
    "eye_bag": (0.0, 0.5, 0.1),
    "brow_y": (-0.42, -0.30, 0.05),
    "brow_gap": (0.14, 0.26, -0.03),
    "brow_width": (0.52, 0.72, 0.03),
    "brow_height": (0.05, 0.12, 0.05),
    "brow_arch": (0.0, 0.12, -0.04),
    "brow_tilt": (-0.16, 0.16, 0.0),
    "nose_y": (0.56, 0.76, 0.03),
    "nose_width": (0.19, 0.32, 0.03),
    "nose_bridge": (0.09, 0.16, 0.01),
    "nose_height": (0.26, 0.46, 0.05),
    "nostril": (0.03, 0.06, 0.01),
    "mouth_y": (1.08, 1.22, 0.02),
    "mouth_width": (0.32, 0.46, 0.02),
    "mouth_tilt": (-0.04, 0.04, 0.0),
    "upper_lip": (0.05, 0.12, -0.02),
    "lower_lip": (0.08, 0.16, -0.02),
    "cupid_bow": (0.1, 0.6, 0.0),
    "lip_red": (0.35, 0.8, -0.25),
    "cheekbone": (0.02, 0.10, 0.0),
    "brow_ridge": (0.0, 0.06, 0.05),
    "cheek_fold": (0.0, 0.4, 0.1),
    "blush": (0.05, 0.30, -0.1),
    "hairline": (-1.10, -0.84, -0.04),
    "fringe": (-0.6, 0.4, -0.2),  # length of the hair on the forehead; below 0: none
    "parting": (-0.6, 0.6, 0.0),
    "hair_volume": (0.06, 0.22, -0.06),
    "hair_end": (-0.2, 1.2, -1.6),  # y at which the hair at the sides ends
    "curl": (0.0, 1.0, 0.0),
    "glasses_size": (0.30, 0.42, 0.0),
    "glasses_exponent": (2.0, 5.0, 0.0),  # from round to square
    "glasses_wire": (0.025, 0.06, 0.0),
}
SKINS = ((248, 214, 194), (236, 192, 164), (206, 156, 122), (158, 108, 78), (104, 68, 50))
HAIRS = ((36, 30, 28), (62, 44, 34), (92, 62, 42), (196, 158, 104), (150, 72, 38), (158, 156, 154))
HAIR_SHARES, HAIR_SHARES_FAIR = (0.6, 0.34, 0, 0, 0, 0.06), (0.15, 0.3, 0.27, 0.13, 0.08, 0.07)
IRISES = ((60, 38, 24), (112, 74, 40), (96, 110, 64), (84, 122, 150), (120, 130, 134))
FRAMES = ((18, 14, 14), (90, 50, 30), (150, 30, 40), (40, 60, 120), (170, 160, 150))


def _blend(palette, position: float) -> np.ndarray:
    """The colour at `position` in 0..1 along a palette."""
    stops = np.linspace(0, 1, len(palette))
    return np.float32([np.interp(position, stops, channel) for channel in np.transpose(palette)])


class Identity:
    """What is the same in all photographs of a person. The traits are attributes, named as in TRAITS."""

    def __init__(self, rng: np.random.Generator):
        masculine = rng.beta(0.5, 0.5)
        for name, (low, high, difference) in TRAITS.items():
            setattr(self, name, rng.uniform(low, high) + difference * (masculine - 0.5))
        darkness = rng.beta(0.9, 1.3)
        fair = darkness < 0.45
        self.skin = np.clip(
            _blend(SKINS, darkness) + rng.normal(0, 4, 3), 0, 235
        )  # the grain makes it brighter in places: below 255
        self.hair = np.float32(HAIRS[rng.choice(6, p=HAIR_SHARES_FAIR if fair else HAIR_SHARES)])
        self.hair = np.clip(self.hair * rng.uniform(0.7, 1.25), 14, 235)
        self.iris = _blend(IRISES, rng.random() if fair else 0.3 * rng.random())
        self.bald = masculine > 0.5 and rng.random() < 0.2
        self.beard, self.moustache = (rng.random(2) < 0.4) * (masculine > 0.55) * rng.uniform(0.3, 0.9, 2)
        self.beard_width = rng.uniform(0.35, 1.0)  # from goatee to full beard
        self.glasses = rng.random() < 0.25
        self.frame = _blend(FRAMES, rng.random())
        self.moles = rng.uniform((-0.9, 0.2, 0.02), (0.9, 1.5, 0.045), (rng.integers(4), 3))  # x, y, radius
        num_freckles = rng.integers(30, 90) if fair and rng.random() < 0.25 else 0
        self.freckles = rng.normal((0, 0.4), (0.42, 0.16), (num_freckles, 2))
        self.grain = rng.standard_normal(SHAPE).astype(np.float32)  # pores, stubble
        self.strands = rng.standard_normal(400).astype(np.float32)  # brightness of hair around the crown


class Expression:
    """The expression of a face in one photograph."""

    def __init__(self, rng: np.random.Generator):
        self.smile = rng.uniform(-0.3, 1.0)
        self.mouth_open = max(0.0, rng.normal(0.0, 0.5))
        self.eyes_open = np.clip(rng.normal(1.0, 0.15), 0.45, 1.2)
        self.brows_up = rng.normal(0.0, 0.035)
        self.frown = rng.normal(0.0, 0.05)
        self.gaze = rng.normal(0.0, (0.05, 0.02))  # x, y


class Accessories:
    """What a person wears in one photograph: mostly the usual glasses, rarely sunglasses or a hat."""

    def __init__(self, person: Identity, rng: np.random.Generator):
        self.glasses = person.glasses != (rng.random() < 0.1)
        self.sunglasses = rng.random() < 0.03
        self.hat = rng.random() < 0.06
        self.hat_colour = rng.uniform(20, 235, 3)
        self.hat_edge = rng.uniform(-0.85, -0.6)  # y of its rim over the nose
