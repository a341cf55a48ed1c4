"""Show a batch that training had to skip, layer by layer: where do its numbers stop being finite?

    python tools/replay_step.py work_dirs/demo/skipped_step_120_rank_0.pt
    python tools/replay_step.py skipped_step_120_rank_0.pt --model other_model.pt --precision bf16

The network is the run's model.pt, which was saved before the steps that were skipped. For each layer: the
largest magnitude of its output, and how many of its numbers are not finite.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from prettytable import PrettyTable
from torch import Tensor, nn

from backbones import load_backbone
from training.diagnosis import each_output, faulty_images
from utils.batch_norm import FrozenBatchStatistics
from utils.command_line import run_script
from utils.precision import PRECISIONS, autocast


def read_batch(path: Path) -> tuple[Tensor, list[str]]:
    """Images `(b, 3, 112, 112)` of a saved batch, and the names of their records, or their positions."""
    try:
        batch = torch.load(path, map_location="cpu", weights_only=True)
        images, names = batch["images"].float(), batch["names"]
    except OSError:
        raise
    except Exception as error:  # any bytes may be in the file, for which torch has no class of error
        raise ValueError(
            f"{path} is no batch that training has saved, skipped_step_STEP_rank_R.pt"
        ) from error
    return images, names or [str(i) for i in range(len(images))]


def table_of_layers(backbone: nn.Module, images: Tensor, precision: str) -> PrettyTable:
    """A row for each layer in the order of the forward pass, in training mode."""
    table = PrettyTable(["layer", "shape", "largest magnitude", "not finite"], align="l")

    def add_row(name: str, output: Tensor) -> None:
        finite = output[output.isfinite()]
        largest = f"{finite.abs().max().item():.3g}" if finite.numel() else "–"
        count = output.numel() - finite.numel()
        table.add_row([name, "×".join(map(str, output.shape)), largest, f"{count:,}" if count else ""])

    frozen = FrozenBatchStatistics(backbone)
    with torch.no_grad(), each_output(backbone, add_row), frozen, autocast(images.device, precision):
        backbone.train()(images)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("batch", type=Path, help="skipped_step_STEP_rank_R.pt of a run")
    parser.add_argument("--model", type=Path, help="weights; default: model.pt beside the batch")
    parser.add_argument(
        "--input-order", choices=("RGB", "BGR"), help="of the network, where its file does not say it"
    )
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="default fp32")
    args = parser.parse_args()
    images, names = read_batch(args.batch)
    model = args.model or args.batch.parent / "model.pt"
    if not model.exists():
        raise FileNotFoundError(f"no network in {model}: name one with --model")
    faulty = ", ".join(names[i] for i in faulty_images(images))
    print(f"{len(images)} images, not finite: {faulty or 'none'}")
    backbone = load_backbone(model, input_order=args.input_order)
    print(table_of_layers(backbone, images, args.precision))


if __name__ == "__main__":
    run_script(main)
