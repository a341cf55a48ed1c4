"""What ARoFace adds to a training step: ours, and the original's way, against the plain step.

    python benchmarks/aroface.py [--networks demo r18] [--precisions fp32 bf16] [--batch 64] [--compile]
        [--ways plain aroface]

`demo` is the network of configs/demo with its 500 classes; the others have 512 dimensions and --classes. The
original's way perturbs the whole batch, with the gradients of all weights, and uses the same share of it.
First, in float64, both ways warp a whole batch and have to give the same images. Then the three kinds of step
alternate in one process, so that other work on the machine slows all of them down. `of_plain` is the time
divided by that of the plain step in the same round: its median over the rounds; low and high are quartiles.
Without a GPU it is processor time, which other work lengthens less.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbones import MODEL_NAMES, CompiledBackbone, get_model
from benchmarks.common import device, in_own_process, median_ms, print_row, report, timed
from dataset import to_input
from losses import build_loss
from losses.aroface import LIMITS, AlignmentPerturbation, generator_of_rank
from partial_fc import PartialFC
from training.optimizer import build_optimizer, make_scaler
from utils.command_line import run_script
from utils.config import get_config
from utils.distributed import start_process_group
from utils.frozen import to_builtin
from utils.precision import PRECISIONS, autocast

DEMO_CLASSES = 500


class WholeBatch(AlignmentPerturbation):
    """The original's way to find the same warps: of the whole batch, with a backward pass to all weights."""

    def __call__(self, backbone: nn.Module, head: nn.Module, images: Tensor, labels: Tensor):
        generator = generator_of_rank()
        order = torch.randperm(len(images), generator=generator)
        shuffled = images[order]
        start, eta = self._draw(shuffled, generator)
        parameters = start.clone().requires_grad_()
        head(backbone(self._warp(shuffled, parameters)), labels[order]).backward()
        backbone.zero_grad(), head.zero_grad()
        limits = start.new_tensor(LIMITS)
        warped = self._warp(shuffled, start + (eta * parameters.grad.sign()).clamp(-limits, limits))
        count = round((1 - self.ratio) * len(images))
        images = images.clone()
        images[order[:count]] = warped[:count]
        return images, labels


WAYS = {"plain": None, "aroface": AlignmentPerturbation, "original": WholeBatch}


def make_network(network: str, num_classes: int, precision: str) -> tuple[nn.Module, PartialFC]:
    """Backbone and head on the device; the same numbers every time."""
    torch.manual_seed(0)
    cfg = get_config("demo" if network == "demo" else "synthetic")
    name = cfg.network if network == "demo" else network
    backbone = get_model(name, num_features=cfg.embedding_size, **to_builtin(cfg.network_args))
    head = PartialFC(build_loss("arcface"), cfg.embedding_size, num_classes, precision=precision)
    return backbone.to(device(), memory_format=torch.channels_last), head.to(device())


def make_batch(size: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Random images, as smooth as faces, `(size, 3, 112, 112)` uint8, and labels."""
    coarse = torch.randint(256, (size, 3, 14, 14), generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(coarse.float(), (112, 112), mode="bilinear")
    return images.byte(), torch.arange(size) % num_classes


def check_equal() -> None:
    """Where the whole batch is warped, both ways make the same images from the same random numbers.

    Raises:
        AssertionError: they do not; then times cannot be compared.
    """
    backbone, head = (module.double() for module in make_network("demo", DEMO_CLASSES, "fp32"))
    images, labels = make_batch(8, DEMO_CLASSES)
    images = to_input(images, device(), channels_last=True).double()
    warped = []
    for way in (AlignmentPerturbation, WholeBatch):
        torch.manual_seed(0)
        warped.append(way(ratio=0.0)(backbone, head, images, labels)[0])
    assert (warped[0] - images).abs().max() > 0.1, "nothing was warped"
    difference = (warped[1] - warped[0]).abs().max().item()
    assert difference < 1e-6, f"the two ways warp differently, by up to {difference:.1e}"


def make_step(
    network: str, precision: str, batch: int, num_classes: int, is_compiled: bool = False
) -> Callable:
    """step(perturb): fetch, perturb, forward, head, backward, clip, optimiser, as in train_v2.py."""
    backbone, head = make_network(network, num_classes, precision)
    way = CompiledBackbone(backbone) if is_compiled else backbone
    cfg = get_config("synthetic")
    optimizer = build_optimizer(cfg, backbone, head, lr=0.01)
    scaler = make_scaler(precision, device())
    faces, identities = make_batch(batch, num_classes)

    def step(perturb: AlignmentPerturbation | None) -> None:
        images, labels = to_input(faces, device(), channels_last=True), identities
        if perturb:
            with autocast(device(), precision):
                images, labels = perturb(way, head, images, labels)
        with autocast(device(), precision):
            embeddings = way(images)
        scaler.scale(head(embeddings, labels)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(backbone.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds_of(step: Callable, perturb: AlignmentPerturbation | None) -> float:
    """Of one step: by the clock on a GPU, else of the processor."""
    start = time.process_time()
    by_clock = timed(step, perturb)[1]
    return by_clock if torch.cuda.is_available() else time.process_time() - start


def measure(
    step_of: tuple[str, str, int, int, bool], ways: list[str], ratio: float, repeat: int
) -> dict[str, list[float]]:
    """Seconds of a step of each way, in each of `repeat` rounds after one round to warm up.

    Args:
        step_of: what `make_step` gets.
    """
    start_process_group()  # the loss scaler of fp16 needs a group, even of one rank
    step = make_step(*step_of)
    perturb = {name: WAYS[name] and WAYS[name](ratio=ratio) for name in ways}
    rounds = [{name: seconds_of(step, perturb[name]) for name in ways} for _ in range(repeat + 1)][1:]
    return {name: [seconds[name] for seconds in rounds] for name in ways}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ["demo", *MODEL_NAMES]
    parser.add_argument("--networks", nargs="+", choices=known, default=["demo"], metavar="NAME")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--ratio", type=float, default=0.75)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="plain is always among them"
    )
    args = parser.parse_args()
    ways = ["plain", *(way for way in args.ways if way != "plain")]

    check_equal()
    rows = []
    for network in args.networks:
        num_classes = DEMO_CLASSES if network == "demo" else args.classes
        for precision in args.precisions:
            step_of = network, precision, args.batch, num_classes, args.compile
            seconds = in_own_process(measure, step_of, ways, args.ratio, args.repeat)
            for way, times in seconds.items():
                ratios = [own / plain for own, plain in zip(times, seconds["plain"])]
                low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
                row = dict(network=network, classes=num_classes, precision=precision, way=way)
                rows.append(row | dict(step_ms=median_ms(times), of_plain=middle, low=low, high=high))
                print_row("aroface", rows[-1])
    report("aroface", rows, vars(args))


if __name__ == "__main__":
    run_script(main)
