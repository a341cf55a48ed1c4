"""train_v2 on one to three ranks, with and without accumulation: one global batch, one set of weights."""

import functools
import shutil

import pytest
import torch

from helpers.rank_runs import train_on_ranks
from helpers.train_runs import write_faces

# A linear backbone, and statistics of its input that nothing depends on: what BatchNorm would collect.
LINEAR = """
import torch

class Linear(torch.nn.Module):
    input_order = "RGB"

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3 * 14 * 14, 16)
        self.norm = torch.nn.BatchNorm1d(3 * 14 * 14, affine=False)

    def forward(self, images):
        pooled = torch.nn.functional.avg_pool2d(images.float(), 8).flatten(1)
        self.norm(pooled)
        return self.linear(pooled)

train_v2.build_backbone = lambda cfg: Linear()
train_v2.write_backbone = lambda path, backbone, cfg: torch.save(backbone.state_dict(), path)
"""
SETTINGS = (
    "embedding_size=16 num_classes=None num_image=None num_steps=8 lr=0.05 num_workers=0 precision=fp32"
)
SETTINGS += (
    " val_targets=[] tensorboard=false report=false save_all_states=false loss_args.s=16 flip_prob=0.5"
)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Trains on so many ranks, with that batch, accumulation and more settings; the state of the backbone."""
    folder = tmp_path_factory.mktemp("ranks")
    write_faces(folder / "faces")

    @functools.cache
    def run(
        ranks: int, batch_size: int, gradient_acc: int = 1, *more: str, name: str | None = None
    ) -> dict[str, torch.Tensor]:
        out = folder / (name or f"{ranks}x{batch_size}x{gradient_acc}")
        sizes = [f"batch_size={batch_size}", f"gradient_acc={gradient_acc}", f"output={out}"]
        line = ["configs/synthetic", f"rec={folder / 'faces'}", *SETTINGS.split(), *sizes, *more]
        for code, output in train_on_ranks([line] * ranks, code_of_all=LINEAR)[0]:
            assert code == 0, output
        return torch.load(out / "model.pt", weights_only=True)

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def alone(train) -> dict[str, torch.Tensor]:
    return train(1, 8)


@pytest.mark.parametrize(("ranks", "batch_size", "gradient_acc"), [(2, 4, 1), (1, 4, 2), (2, 2, 2)])
def test_a_global_batch_trains_to_the_same_weights_however_it_is_divided(
    train, alone, ranks, batch_size, gradient_acc
):
    divided = train(ranks, batch_size, gradient_acc)
    assert alone["linear.weight"].std() > 0.01
    for name in ("linear.weight", "linear.bias"):
        torch.testing.assert_close(divided[name], alone[name], rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_with_another_number_of_ranks_and_the_same_global_batch(train, alone):
    """Two ranks of 4 images, then three of 3, 3 and 2, with the same command line; variances are of all 8."""
    settings = ["save_all_states=true", "checkpoint_every=4", "sync_bn=true"]
    train(2, 4, 1, *settings, name="moved")
    shutil.rmtree(train.folder / "moved/checkpoints/step_00000008")
    moved = train(3, 4, 1, *settings, "resume=true", name="moved")
    log = (train.folder / "moved/train.log").read_text()
    assert "make a global batch of 12; it stays the checkpoint's 8, 2 to 3 images a rank" in log
    for name in ("linear.weight", "linear.bias", "norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(moved[name], alone[name], rtol=1e-4, atol=1e-5)


def test_the_saved_model_has_the_statistics_of_all_ranks(train, alone):
    torch.testing.assert_close(train(2, 4, 1)["norm.running_mean"], alone["norm.running_mean"])
