"""Small trees in the official layouts of IJB-B, IJB-C, TinyFace, QMUL-SurvFace and IJB-S.

All trees show the same people in different photographs; IJB-B, IJB-S and the gallery of SurvFace are content
with fewer of them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tools.demo.album import ALBUM, Album
from tools.demo.tree_ijb import order_ijb, write_landmarks
from tools.demo.tree_ijbs import order_ijbs
from tools.demo.tree_survface import order_survface
from tools.demo.tree_tinyface import order_tinyface

TREES = ("IJBB", "IJBC", "tinyface", "survface", "ijbs")  # folders


def write_trees(root: Path, people: range, seed: int, draw: Callable) -> None:
    """Fills the folders TREES of `root`, which do not exist yet; the second half of `people` are strangers.

    draw: how, see album.painters.
    """
    known, strangers = people[: len(people) // 2], people[len(people) // 2 :]
    album = Album(seed)
    rng = {name: np.random.default_rng([seed, ALBUM, number]) for number, name in enumerate(TREES)}
    ijb = {
        name: order_ijb(album, rng[name], root / name, shown)
        for name, shown in (("IJBB", known[: len(known) // 2]), ("IJBC", known))
    }
    order_tinyface(album, rng["tinyface"], root / "tinyface", known, strangers)
    order_survface(album, rng["survface"], root / "survface", known, strangers)
    order_ijbs(album, rng["ijbs"], root / "ijbs", known[: 2 * len(known) // 3])
    landmarks = album.take(draw)
    for name, faces in ijb.items():
        write_landmarks(root / name, faces, landmarks)
