"""The protocols of eval/ on the demo data, and small trees in the official layouts that they read.

All trees show the same people in different photographs; some trees show only a part of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tools.demo.album import ALBUM, Album
from tools.demo.tree_ijb import request_ijb
from tools.demo.tree_ijbs import request_ijbs
from tools.demo.tree_survface import request_survface
from tools.demo.tree_tinyface import request_tinyface

BIN_SETS = ("demo_hq.bin", "demo_lq.bin")  # tools/make_demo.py writes them


@dataclass(frozen=True)
class Protocol:
    """How a script of eval/ is run on the demo data.

    Attributes:
        data: what `--data` gets: paths inside the folder of the demo data.
        options: the other arguments; {data} stands for that folder.
        quick: options that come last in a quick run and replace earlier ones.
        trees: the folders that are drawn for it, each with the function that requests its images and writes
            its lists: request(album, rng, folder, known people, strangers). If the function returns another
            one, that is called at the end, with the landmarks of all loose crops.
    """

    data: tuple[str, ...]
    options: str = ""
    quick: str = ""
    trees: dict[str, Callable] = field(default_factory=dict)


# By the name of the script. A new protocol needs a row here, and `make demo` and `make smoke` will run it. It
# goes to the end: the number of a tree is part of its seed, so the trees before it stay as they are.
PROTOCOLS = {
    "verification": Protocol(BIN_SETS),
    "eval_ijb": Protocol(
        (".",),
        "--convention insightface adaface cvlface",
        trees={"IJBB": request_ijb, "IJBC": request_ijb},
    ),
    "eval_tinyface": Protocol(("tinyface",), trees={"tinyface": request_tinyface}),
    "eval_survface": Protocol(("survface",), trees={"survface": request_survface}),
    "eval_ijbs": Protocol(("ijbs",), "--list {data}/ijbs/image_list.csv", trees={"ijbs": request_ijbs}),
    "eval_robustness": Protocol(
        BIN_SETS,
        "--best-first --pairs 40 --only rotation=10,20 shift=0.05,0.1 resolution=16,8",
        quick="--pairs 20 --only rotation=20 blur=3",
    ),
}
TREES = {folder: request for protocol in PROTOCOLS.values() for folder, request in protocol.trees.items()}


def write_trees(root: Path, people: range, seed: int, map_tasks: Callable) -> None:
    """Fills the folders TREES of `root`, which do not exist yet.

    people: the first half of them are known, the second half strangers. map_tasks: see album.worker_map.
    """
    known, strangers = people[: len(people) // 2], people[len(people) // 2 :]
    album, unfinished = Album(seed), []
    for number, (folder, request) in enumerate(TREES.items()):
        rng = np.random.default_rng([seed, ALBUM, number])
        unfinished.append(request(album, rng, root / folder, known, strangers))
    landmarks = album.draw(map_tasks)
    for finish in filter(None, unfinished):
        finish(landmarks)
