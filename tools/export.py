"""Write a network for other programs: ONNX, TorchScript, or a folder of safetensors as model hubs have it.

    python tools/export.py --model work_dirs/demo/model.pt --out face.onnx
    python tools/export.py --model adaface.ckpt --out face.onnx --pixels BGR      # takes OpenCV's bytes
    python tools/export.py --model work_dirs/demo/model.pt --out face.torchscript
    python tools/export.py --model work_dirs/demo/model.pt --out release --results */results.json

What --out ends with is what is written: .onnx, .torchscript, or nothing for a folder of model.safetensors,
config.json and README.md, the model card. By default a network takes float images (N, 3, 112, 112) in [-1, 1]
in its own colour order, which the metadata say; with --pixels it takes bytes (N, 112, 112, 3), and normalises
and orders colours inside. Embeddings (N, D) are not normalised: their length tells the quality.

What was written is run beside the network, on 1 and on 7 random images: where an embedding differs by more
than a ten-thousandth of the largest number, there is an error and no file. docs/export.md says more.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn

from backbones.export import (
    OPSET,
    deployed,
    description,
    example,
    quiet,
    write_onnx,
    write_release,
    write_torchscript,
)
from eval.models import add_model_arguments, load_network
from tools.helpers.model_card import model_card
from utils.command_line import run_script
from utils.errors import needed_package
from utils.files import whole_files, whole_folder

ALLOWED = 1e-4  # of the largest number in the embeddings
COUNTS = (1, 7)  # images a call


def onnx_output(path: Path):
    """A function that runs an ONNX file: images `(N, ...)` -> embeddings."""
    runtime = needed_package("onnxruntime", "to check an ONNX file", "onnxruntime, or add --no-check")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images.numpy()})[0]


def torchscript_output(path: Path):
    """The same of TorchScript."""
    with quiet():
        network = torch.jit.load(str(path))
    return lambda images: network(images).numpy()


@torch.no_grad()
def difference(network: nn.Module, output, counts: tuple[int, ...]) -> float:
    """How far the file's embeddings are from the network's, as a share of the largest number."""
    worst = 0.0
    for count in counts:
        images = example(network, count, seed=count)
        expected, found = network(images).numpy(), output(images)
        worst = max(worst, float(np.abs(found - expected).max() / np.abs(expected).max()))
    return worst


def export_file(args: argparse.Namespace, backbone: nn.Module) -> str:
    """Write and check .onnx or .torchscript; returns what is to be printed."""
    network, about = deployed(backbone, args.pixels), description(backbone, args.pixels)
    is_onnx = args.out.suffix == ".onnx"
    said = "not checked"
    with whole_files(args.out) as folder:
        path = folder / args.out.name
        if is_onnx:
            write_onnx(path, network, about, batch=args.batch, legacy=args.legacy)
        else:
            write_torchscript(path, network, about)
        if args.check:
            output = onnx_output(path) if is_onnx else torchscript_output(path)
            worst = difference(network, output, (args.batch,) if args.batch else COUNTS)
            if not worst <= ALLOWED:
                raise ValueError(
                    f"{args.out} is not written: its embeddings differ by {worst:.1e} of the largest number, "
                    f"allowed is {ALLOWED:g}"
                )
            said = f"at most {worst:.1e} from the network's embeddings, of the largest number"
    kind = "uint8 (N, 112, 112, 3)" if args.pixels else "float32 (N, 3, 112, 112) in [-1, 1]"
    return f"{args.out}: takes {about['input_order']} {kind}; {said}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_model_arguments(parser, onnx=False)
    add("--out", type=Path, required=True, help="NAME.onnx, NAME.torchscript, or a folder")
    add("--pixels", choices=("RGB", "BGR"), help="take bytes in this order: normalisation inside the graph")
    add("--batch", type=int, help="ONNX: images of each call; default: any number")
    add("--legacy", action="store_true", help=f"ONNX: opset 17 by the old exporter, not {OPSET}")
    add("--no-check", dest="check", action="store_false", help="do not run what was written")
    add("--results", type=Path, nargs="+", default=[], help="results.json of evaluations, for the model card")
    args = parser.parse_args()
    is_folder = args.out.suffix not in (".onnx", ".torchscript")
    if is_folder and args.out.suffix in (".pt", ".pth", ".ckpt", ".ts", ".jit"):
        raise ValueError(f"--out {args.out}: allowed are NAME.onnx, NAME.torchscript and a folder")
    check_options(args, is_folder)
    backbone = load_network(args)
    if not is_folder:
        print(export_file(args, backbone))
        return
    card = model_card(args.out.name, backbone, args.results)
    with whole_folder(args.out) as folder:
        write_release(folder, backbone)
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"{args.out}: {', '.join(sorted(file.name for file in args.out.iterdir()))}")


def check_options(args: argparse.Namespace, is_folder: bool) -> None:
    """Require options that count for this kind of file.

    Raises:
        ValueError: one would be ignored, or has no meaning.
    """
    ignored = [
        ("--pixels", args.pixels and is_folder, "a folder of weights"),
        ("--results", args.results and not is_folder, "a single file"),
        ("--batch", args.batch is not None and args.out.suffix != ".onnx", "anything but .onnx"),
        ("--legacy", args.legacy and args.out.suffix != ".onnx", "anything but .onnx"),
    ]
    for option, given, what in ignored:
        if given:
            raise ValueError(f"{option} means nothing for {what}, and --out is {args.out}")
    if args.batch is not None and args.batch < 1:
        raise ValueError(f"--batch is {args.batch}, allowed: 1 or more")


if __name__ == "__main__":
    run_script(main)
