"""A whole training step (forward, head, backward, optimiser) on random images: images per second.

    python benchmarks/step.py [--networks mbf r50] [--precisions fp32 bf16] [--batch 32] [--classes 10000]

Every row runs in a process of its own. `of_first` is its speed divided by that of the network's first row
(fp32, contiguous).
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbones import MODEL_NAMES, get_model
from benchmarks.common import MIB, device, in_own_process, peak_memory, report, timed
from dataset import to_input
from losses import build_loss
from partial_fc import PartialFC
from training.optimizer import build_optimizer, make_scaler
from utils.command_line import run_script
from utils.config import get_config
from utils.distributed import start_process_group
from utils.precision import PRECISIONS, autocast


def measure(
    network: str, precision: str, channels_last: bool, batch: int, num_classes: int, num_steps: int
) -> dict:
    """Median speed over `num_steps` steps, after two steps to warm up."""
    start_process_group()  # the loss scaler of fp16 needs a group, even of one rank
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    backbone = get_model(network, num_features=512).to(device(), memory_format=layout)
    head = PartialFC(build_loss("arcface"), 512, num_classes, precision=precision).to(device())
    cfg = get_config("synthetic")
    optimizer = build_optimizer(cfg, backbone, head, lr=0.01)
    scaler = make_scaler(precision, device())
    images = torch.randint(256, (batch, 3, 112, 112), dtype=torch.uint8)
    labels = torch.randint(num_classes, (batch,))

    def step() -> None:
        inputs = to_input(images, device(), channels_last=channels_last)
        with autocast(device(), precision):
            embeddings = backbone(inputs)
        scaler.scale(head(embeddings, labels)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), cfg.grad_clip or 5.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    seconds = [timed(step)[1] for _ in range(num_steps + 2)][2:]
    return dict(images_per_s=batch / statistics.median(seconds), peak_mib=peak_memory() / MIB)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=MODEL_NAMES, default=["mbf", "r50"], metavar="NAME")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()

    rows = []
    for network in args.networks:
        reference = None
        for precision in args.precisions:
            for channels_last in (False, True):
                sizes = (args.batch, args.classes, args.steps)
                result = in_own_process(measure, network, precision, channels_last, *sizes)
                reference = reference or result["images_per_s"]
                layout = "channels_last" if channels_last else "contiguous"
                speed = result["images_per_s"] / reference
                rows.append(
                    dict(network=network, precision=precision, layout=layout, **result, of_first=speed)
                )
    report("step", rows, vars(args))


if __name__ == "__main__":
    run_script(main)
