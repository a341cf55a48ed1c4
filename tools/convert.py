"""Write the weights of a network in another project's file, or those of another project in this one's.

    python tools/convert.py --model work_dirs/demo/model.pt --to insightface --out backbone.pth
    python tools/convert.py --model ms1mv2_r100.pth --network r100 --to lqface --out r100.pt
    python tools/convert.py --model adaface.ckpt --to lqface --out adaface.pt

insightface: a bare state_dict for r18 … r2060, mbf and vit_*, as arcface_torch loads it. adaface: a
"state_dict" with "model." before each key, for ir_*, as AdaFace's inference loads it. lqface: model.pt, which
says its colour order. insightface's code feeds RGB and AdaFace's BGR: where the network was trained in the
other order, its first convolution is turned, so that the embeddings stay what they are.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbones.conversion import ORDERS, write_layout
from eval.models import add_model_arguments, load_network
from utils.command_line import run_script


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser, onnx=False)
    parser.add_argument("--to", required=True, choices=tuple(ORDERS), help="whose file to write")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    if args.out.exists() and args.out.samefile(args.model):
        raise ValueError(f"--out {args.out} is the --model itself")
    backbone = load_network(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_layout(args.out, backbone, args.to)
    order = ORDERS[args.to] or backbone.input_order
    turned = "" if order == backbone.input_order else ", its first convolution turned"
    print(f"{args.out}: {backbone.network} for {args.to}, takes {order}{turned}")


if __name__ == "__main__":
    run_script(main)
