"""Does this checkout train as another one does, bit for bit? For changes that are meant to keep results.

    git worktree add /tmp/before main
    python tests/helpers/compare.py /tmp/before
    python tests/helpers/compare.py /tmp/before --presets demo_ndr demo_center

Trains a few presets in both checkouts on random images: on the CPU, in float32, on one thread, each run in a
process of its own. Compares what each step has logged, but for times and memory, and all weights and class
centres at the end. Prints a line a preset, with the largest relative difference of a step's loss where there
is any; exit code 1 where one differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
PRESETS = ("demo_adaface", "demo_curricularface", "demo_aroface")
SETTINGS = (
    "rec=synthetic num_classes=30 num_image=96 val_targets=[] num_steps=10 batch_size=8 gradient_acc=2 "
    "warmup_epoch=0.5 dropout=0.1 sample_rate=0.5 precision=fp32 num_workers=0 frequent=1 "
    "tensorboard=false report=false "
    "save_all_states=true seed=1"
)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
MEASURED = ("images_per_second", "data_wait", "memory_mib")


def train(checkout: Path, preset: str, folder: Path) -> dict:
    """What a run of the checkout leaves: name -> number or tensor."""
    command = [sys.executable, "train_v2.py", f"configs/{preset}", *SETTINGS.split(), f"output={folder}"]
    done = subprocess.run(command, cwd=checkout, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    if done.returncode:
        sys.exit(f"error: {preset} in {checkout} ended with code {done.returncode}:\n{done.stderr}")
    found = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        found |= {f"step {line['step']}, {key}": line[key] for key in line.keys() - MEASURED}
    for file in [folder / "model.pt", *sorted(folder.glob("checkpoints/step_*10/*.pt"))]:
        found |= tensors(file.name, torch.load(file, weights_only=True))
    return found


def tensors(name: str, value) -> dict[str, torch.Tensor]:
    """All tensors inside nested dicts and lists, by the path to them."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path: tensor for key, item in items for path, tensor in tensors(f"{name}/{key}", item).items()}


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def compare(preset: str, base: Path) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        before = train(base, preset, Path(folder) / "before")
        after = train(ROOT, preset, Path(folder) / "after")
    names = [*before, *(after.keys() - before.keys())]
    different = [name for name in names if not equal(before.get(name), after.get(name))]
    outcome = "all equal"
    if different:
        losses = [name for name in before.keys() & after.keys() if name.endswith(", loss")]
        largest = max(abs(after[name] / before[name] - 1) for name in losses)
        outcome = f"{len(different)} differ, first of them: {different[0]}; the loss by {largest:.1e} at most"
    loss = before["step 10, loss"]
    print(f"{preset:20}  {len(names)} numbers and tensors, {outcome}; loss {loss} at the end", flush=True)
    return not different


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path, metavar="BASE_CHECKOUT", help="a folder with another version")
    parser.add_argument("--presets", nargs="+", default=PRESETS, help=f"default: {' '.join(PRESETS)}")
    args = parser.parse_args()
    base = args.base.resolve()
    if not (base / "train_v2.py").is_file():
        parser.error(f"{base} holds no train_v2.py")
    are_equal = [compare(preset, base) for preset in args.presets]
    sys.exit(0 if all(are_equal) else 1)


if __name__ == "__main__":
    main()
