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
from utils.batch_norm import FrozenBatchStatistics
from utils.command_line import run_script
from utils.precision import PRECISIONS, autocast


def outputs_of_layers(backbone: nn.Module, images: Tensor, precision: str) -> list[tuple[str, Tensor]]:
    """(name, output) of each layer in the order of the forward pass, in training mode."""
    outputs: list[tuple[str, Tensor]] = []
    for name, layer in backbone.named_modules():
        if not any(True for _ in layer.children()):
            layer.register_forward_hook(lambda _, inputs, output, name=name: outputs.append((name, output)))
    with torch.no_grad(), FrozenBatchStatistics(backbone), autocast(images.device, precision):
        backbone.train()(images)
    return outputs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("batch", type=Path, help="skipped_step_STEP_rank_R.pt of a run")
    parser.add_argument("--model", type=Path, help="weights; default: model.pt beside the batch")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="default fp32")
    args = parser.parse_args()
    batch = torch.load(args.batch, weights_only=True)
    model = args.model or args.batch.parent / "model.pt"
    if not model.exists():
        raise FileNotFoundError(f"no network in {model}: name one with --model")
    images = batch["images"].float()
    bad = (~images.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    names = batch["names"] or [str(i) for i in range(len(images))]
    print(f"{len(images)} images, not finite: {[names[i] for i in bad] or 'none'}")
    table = PrettyTable(["layer", "shape", "largest magnitude", "not finite"], align="l")
    for name, output in outputs_of_layers(load_backbone(model), images, args.precision):
        finite = output[output.isfinite()]
        largest = f"{finite.abs().max().item():.3g}" if finite.numel() else "–"
        count = output.numel() - finite.numel()
        table.add_row([name, "×".join(map(str, output.shape)), largest, f"{count:,}" if count else ""])
    print(table)


if __name__ == "__main__":
    run_script(main)
