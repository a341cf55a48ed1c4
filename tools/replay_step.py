"""Show a batch that training had to skip, layer by layer: where do its numbers stop being finite?

    python tools/replay_step.py work_dirs/demo/skipped_step_120_rank_0.pt
    python tools/replay_step.py skipped_step_120_rank_0.pt --model other_model.pt --precision bf16

The network is the run's model.pt, which was saved before the steps that were skipped. For each layer: the
largest magnitude of its output and of the gradient of its output, and how many of their numbers are not
finite. What was frozen or in evaluation mode in the run is so here: a layer to which no gradient came has
none. The backward pass starts from the gradient of the embeddings, which training has saved with the batch:
loss and class centres are not computed again.
"""

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from prettytable import PrettyTable
from torch import Tensor, nn

from backbones import load_backbone
from backbones.batch_norm import FrozenBatchStatistics
from training.diagnosis import each_output, faulty_images
from utils.command_line import run_script
from utils.precision import PRECISIONS, autocast


def read_batch(path: Path) -> dict:
    """A saved batch: images `(b, 3, 112, 112)`, gradient of the embeddings `(b, D)`, names of the records (or
    positions), precision of the run and step, `training.diagnosis.mode_of` the network."""
    try:
        batch = torch.load(path, map_location="cpu", weights_only=True)
        batch["images"], batch["gradient"] = batch["images"].float(), batch["gradient"].float()
        batch["names"] = batch["names"] or [str(i) for i in range(len(batch["images"]))]
        batch["precision"], batch["step"], batch["resting"], batch["learning"]
    except OSError:
        raise
    except Exception as error:  # any bytes may be in the file, for which torch has no class of error
        raise ValueError(
            f"{path} is no batch that training has saved, skipped_step_STEP_rank_R.pt"
        ) from error
    return batch


def set_mode(backbone: nn.Module, resting: Collection[str], learning: Collection[str]) -> None:
    """Training mode but for the modules `resting`, gradients for the parameters `learning`."""
    for name, module in backbone.named_modules():
        module.training = name not in resting
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in learning)


def table_of_layers(backbone: nn.Module, images: Tensor, gradient: Tensor, precision: str) -> PrettyTable:
    """A row for each layer in the order of the forward pass, in the mode that the network is in.

    Args:
        gradient: of the embeddings; the backward pass begins with it.
    """
    shapes: dict[str, str] = {}
    outputs: dict[str, list[str]] = {}
    gradients: dict[str, list[str]] = {}

    def look(name: str, output: Tensor) -> None:
        shapes[name], outputs[name] = "×".join(map(str, output.shape)), summary(output)
        if output.requires_grad:
            output.register_hook(lambda of_output: gradients.update({name: summary(of_output)}))

    with torch.enable_grad(), each_output(backbone, look), FrozenBatchStatistics(backbone):
        with autocast(images.device, precision):
            embeddings = backbone(images)
        if embeddings.requires_grad:
            embeddings.backward(gradient.to(embeddings.dtype))
    table = PrettyTable(["layer", "shape", "output", "not finite", "gradient", "not finite "], align="l")
    for name, shape in shapes.items():
        table.add_row([name, shape, *outputs[name], *gradients.get(name, ["–", ""])])
    return table


def summary(tensor: Tensor) -> list[str]:
    """The largest finite magnitude, and how many numbers are not finite ("" for none)."""
    finite = tensor[tensor.isfinite()]
    largest = f"{finite.abs().max().item():.3g}" if finite.numel() else "–"
    count = tensor.numel() - finite.numel()
    return [largest, f"{count:,}" if count else ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("batch", type=Path, help="skipped_step_STEP_rank_R.pt of a run")
    parser.add_argument("--model", type=Path, help="weights; default: model.pt beside the batch")
    parser.add_argument(
        "--input-order", choices=("RGB", "BGR"), help="of the network, where its file does not say it"
    )
    parser.add_argument("--precision", choices=PRECISIONS, help="default: that of the run")
    args = parser.parse_args()
    batch = read_batch(args.batch)
    model = args.model or args.batch.parent / "model.pt"
    if not model.exists():
        raise FileNotFoundError(f"no network in {model}: name one with --model")
    images, precision = batch["images"], args.precision or batch["precision"]
    faulty = ", ".join(batch["names"][i] for i in faulty_images(images))
    print(f"step {batch['step']}, {len(images)} images, not finite: {faulty or 'none'}")
    backbone = load_backbone(model, input_order=args.input_order)
    set_mode(backbone, batch["resting"], batch["learning"])
    print(table_of_layers(backbone, images, batch["gradient"], precision))


if __name__ == "__main__":
    run_script(main)
