"""A whole training step (forward, head, backward, optimiser) on random images: images per second.

    python benchmarks/step.py [--networks mbf r50] [--precisions fp32 bf16] [--batch 32] [--classes 10000]

Every row runs in a process of its own. `cpu_ms` is processor time, which other jobs on the machine lengthen
less. `of_first` is the row's time divided by that of the network's first row of the same precision: processor
time without a GPU, else time by the clock. `--compile` adds rows of a compiled backbone,
`--backbone-kernels` rows of one whose BatchNorm runs in GPU kernels.
"""

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

import torch
from easydict import EasyDict as edict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbones import MODEL_NAMES, CompiledBackbone, choose_kernels, get_model
from benchmarks.common import MIB, device, in_own_process, median_ms, peak_memory, print_row, report, timed
from dataset import to_input
from losses import build_loss
from partial_fc import PartialFC
from training.optimizer import build_optimizer, make_scaler
from utils.command_line import run_script
from utils.config import get_config
from utils.distributed import start_process_group
from utils.precision import PRECISIONS, autocast

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def measure(network: str, precision: str, layout: str, way: str, sizes: tuple[int, int, int]) -> dict:
    """Median speed over some steps, after two steps to warm up.

    Args:
        way: "plain", "compiled" or "kernels".
        sizes: images in a batch, classes, steps.
    """
    batch, num_classes, num_steps = sizes
    start_process_group()  # the loss scaler of fp16 needs a group, even of one rank
    torch.manual_seed(0)
    backbone = get_model(network, num_features=512).to(device(), memory_format=LAYOUTS[layout])
    if way == "kernels":
        settings = dict(backbone_kernels=True, network=network, precision=precision)
        choose_kernels(edict(settings, channels_last=True, compile=False), backbone, device())
    run_backbone = CompiledBackbone(backbone) if way == "compiled" else backbone
    head = PartialFC(build_loss("arcface"), 512, num_classes, precision=precision).to(device())
    cfg = get_config("synthetic")
    optimizer = build_optimizer(cfg, backbone, head, lr=0.01)
    scaler = make_scaler(precision, device())
    images = torch.randint(256, (batch, 3, 112, 112), dtype=torch.uint8)
    labels = torch.randint(num_classes, (batch,))

    def step() -> None:
        inputs = to_input(images, device(), channels_last=layout == "channels_last")
        with autocast(device(), precision):
            embeddings = run_backbone(inputs)
        scaler.scale(head(embeddings, labels)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), cfg.grad_clip or 5.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    seconds, of_processor = [], []
    for _ in range(num_steps + 2):
        start = time.process_time()
        seconds.append(timed(step)[1])
        of_processor.append(time.process_time() - start)
    speed = batch / statistics.median(seconds[2:])
    cpu_ms, first_s = median_ms(of_processor[2:]), sum(seconds[:2])
    return dict(images_per_s=speed, cpu_ms=cpu_ms, first_two_s=first_s, peak_mib=peak_memory() / MIB)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=MODEL_NAMES, default=["mbf", "r50"], metavar="NAME")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--backbone-kernels", action="store_true")
    args = parser.parse_args()

    rows, sizes = [], (args.batch, args.classes, args.steps)
    ways = [("contiguous", "plain"), ("channels_last", "plain")]
    ways += [("channels_last", "compiled")] * args.compile
    ways += [("channels_last", "kernels")] * args.backbone_kernels
    by_clock = torch.cuda.is_available()
    for network, precision in itertools.product(args.networks, args.precisions):
        reference = None
        for layout, way in ways:
            result = in_own_process(measure, network, precision, layout, way, sizes)
            time_ms = 1000 * args.batch / result["images_per_s"] if by_clock else result["cpu_ms"]
            reference = reference or time_ms
            row = dict(network=network, precision=precision, layout=layout, way=way)
            rows.append(row | result | dict(of_first=time_ms / reference))
            print_row("step", rows[-1])
    report("step", rows, vars(args))


if __name__ == "__main__":
    run_script(main)
