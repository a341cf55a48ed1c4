"""Write the embeddings of aligned faces, and the norm of each, which tells its quality.

    python tools/embed.py --model work_dirs/demo/model.pt --images aligned/ --out embeddings.npz
    python tools/embed.py --model face.onnx --images a.jpg b.jpg --out two.npz

The file holds `paths`, `embeddings` (N, D) of length 1, `norm` (N,) and `made_with`, the model and how: two
embeddings are compared by their inner product. The images with the shortest norms are printed: look at them
first.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tools.helpers.embedder import Embedder, add_arguments, find_images, write_embeddings
from utils.command_line import run_script
from utils.files import try_writing

NUM_SHOWN = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    add = parser.add_argument
    add("--images", type=Path, nargs="+", required=True, help="aligned faces, and folders of them")
    add("--out", type=Path, required=True, help=".npz file to write")
    args = parser.parse_args()
    if args.out.suffix != ".npz":
        raise ValueError(f"--out {args.out}: allowed is NAME.npz")
    paths = find_images(args.images)
    try_writing(args.out)
    embedder = Embedder(args)
    named = embedder.embed(paths, args.model.name)
    write_embeddings(args.out, named, embedder.made_with)
    median = np.median(named.norm)
    print(f"{args.out}: {len(paths)} embeddings of {named.unit.shape[1]} numbers, median norm {median:.4g}")
    for index in np.argsort(named.norm, kind="stable")[:NUM_SHOWN]:
        print(f"  norm {named.norm[index]:.4g}  {named.paths[index]}")


if __name__ == "__main__":
    run_script(main)
