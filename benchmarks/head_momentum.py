"""What a momentum of the class centres in bf16 changes (`head_momentum="bf16"`): weights and loss.

    python benchmarks/head_momentum.py [--steps 400] [--classes 1000]

A linear network and CosFace learn classes that are noisy directions, once with each number format of the
momentum, with equal images. distance: of the two trainings' centres, as a share of how far they have moved
(root mean square, and largest to largest). loss: mean of the last eighth of the steps.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import device, report
from losses import build_loss
from partial_fc import PartialFC
from training.head_update import HeadUpdate
from training.optimizer import build_optimizer
from utils.command_line import run_script

SIZE, BATCH, NOISE = 64, 128, 0.7
RATES = {"sgd": 0.1, "adamw": 0.001}


def train(
    optimizer: str, seed: int, args: argparse.Namespace, dtype: torch.dtype | None
) -> tuple[Tensor, float]:
    """How the centres have moved, `(C, D)`, and the loss at the end."""
    random = torch.Generator().manual_seed(seed)
    means = torch.randn(args.classes, SIZE, generator=random)
    network = nn.Linear(SIZE, SIZE)
    nn.init.orthogonal_(network.weight, generator=random)
    nn.init.zeros_(network.bias)
    loss = build_loss("cosface", s=32.0)
    head = PartialFC(loss, SIZE, args.classes, head_update="fused", seed=seed).to(device())
    cfg = SimpleNamespace(optimizer=optimizer, momentum=0.9, weight_decay=5e-4, no_decay_norm_bias=False)
    cfg.sampled_update = "sparse"
    both = build_optimizer(cfg, network.to(device()), head, lr=RATES[optimizer])
    head.update_rule = HeadUpdate(both, head.class_parameters(), dtype)
    start, losses = head.weight.detach().clone(), []
    for step in range(args.steps):
        for group in both.param_groups:
            group["lr"] = RATES[optimizer] * (1 - step / args.steps)
        labels = torch.randint(args.classes, (BATCH,), generator=random)
        images = means[labels] + NOISE * torch.randn(BATCH, SIZE, generator=random)
        result = head(network(images.to(device())), labels)
        result.backward()
        both.step(), both.zero_grad()
        losses.append(result.item())
    last = losses[-max(args.steps // 8, 1) :]
    return head.weight.detach() - start, sum(last) / len(last)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for optimizer in RATES:
        for seed in range(args.seeds):
            (exact, loss), (rounded, loss_bf16) = (
                train(optimizer, seed, args, dtype) for dtype in (None, torch.bfloat16)
            )
            difference = rounded - exact
            rows.append(
                dict(
                    optimizer=optimizer,
                    seed=seed,
                    distance=(difference.norm() / exact.norm()).item(),
                    largest=(difference.abs().max() / exact.abs().max()).item(),
                    loss=loss,
                    loss_change=loss_bf16 - loss,
                )
            )
    report("head_momentum", rows, vars(args))


if __name__ == "__main__":
    run_script(main)
