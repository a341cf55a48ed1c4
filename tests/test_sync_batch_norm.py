"""BatchNorm over all ranks equals torch's own on the whole batch, however the ranks share it."""

import itertools
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from backbones import get_model
from backbones.mobilefacenet import MobileFaceNet
from helpers.aroface_cases import batch, make_backbone, make_head
from helpers.backbone_cases import SMALL
from helpers.ranks import run_ranks
from losses import build_loss
from losses.aroface import AlignmentPerturbation
from partial_fc import PartialFC
from ranks.data_parallel import data_parallel
from ranks.sync_batch_norm import SyncBatchNorm2d, convert_sync_batch_norm, prepare_batch_norm
from utils.distributed import average_buffers, rank, world_size

# Images of each rank; a world of W takes the last W numbers, and one rank has them all.
SIZES = ((4, 4, 4), (1, 3, 2), (2, 0, 5), (1, 1, 1))
SHAPES = {
    "(n, C)": (nn.BatchNorm1d, (6,)),
    "(n, C, L)": (nn.BatchNorm1d, (6, 5)),
    "images": (nn.BatchNorm2d, (6, 5, 4)),
}
# Largest error allowed, of the largest number; that of half precision is the rounding of its results.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@dataclass(frozen=True)
class Layer:
    """One BatchNorm and its input on all ranks."""

    shape: str = "images"
    sizes: tuple[int, ...] = (1, 3, 2)
    dtype: torch.dtype = torch.float64
    layout: torch.memory_format = torch.contiguous_format
    affine: bool = True
    momentum: float | None = 0.1
    statistics: bool = True
    mean: float = 3.0

    def make(self) -> nn.Module:
        kind, (channels, *_) = SHAPES[self.shape]
        norm = kind(channels, affine=self.affine, momentum=self.momentum, track_running_stats=self.statistics)
        if self.affine:
            norm.weight.data = torch.linspace(-1, 2, channels)
            norm.bias.data = torch.linspace(1, -3, channels)
        return norm.double() if self.dtype == torch.float64 else norm

    def batches(self, own: slice = slice(None)) -> list[tuple[Tensor, Tensor]]:
        """Inputs of three steps and the gradients of their outputs, of the images `own`."""
        random = torch.Generator().manual_seed(0)
        size = (sum(self.sizes), *SHAPES[self.shape][1])
        images = [torch.randn(size, generator=random, dtype=torch.float64) + self.mean for _ in range(3)]
        gradients = [torch.randn(size, generator=random, dtype=torch.float64) for _ in range(3)]
        return [tuple(self._as_asked(x[own]) for x in pair) for pair in zip(images, gradients)]

    def _as_asked(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).contiguous(memory_format=self.layout)

    def run(self, norm: nn.Module, own: slice = slice(None)) -> dict[str, Tensor]:
        """What three steps leave behind."""
        results = {}
        for step, (x, gradient) in enumerate(self.batches(own)):
            x.requires_grad_()
            y = norm(x)
            y.backward(gradient)
            assert y.dtype == x.dtype
            assert len(x) == 0 or y.is_contiguous(memory_format=self.layout)
            results |= {f"output {step}": y.detach(), f"input gradient {step}": x.grad}
        results |= {f"gradient of {name}": p.grad for name, p in norm.named_parameters()}
        return results | {name: buffer.clone() for name, buffer in norm.named_buffers()}


def all_layers() -> list[Layer]:
    channels_last = [(torch.channels_last, "images")]
    layouts = [(torch.contiguous_format, shape) for shape in SHAPES] + channels_last
    layers = [
        Layer(shape, sizes, dtype, layout)
        for (layout, shape), sizes, dtype in itertools.product(layouts, SIZES, TOLERANCE)
    ]
    layers += [
        Layer(shape, affine=affine, momentum=momentum, statistics=statistics)
        for shape, affine, momentum, statistics in itertools.product(
            SHAPES, (True, False), (0.1, None), (True, False)
        )
    ]
    return layers


LAYERS = all_layers()
FAR_FROM_ZERO = [
    Layer(dtype=dtype, sizes=(40, 30, 50), mean=2000.0) for dtype in (torch.float32, torch.float64)
]


@dataclass(frozen=True)
class Network:
    """A network and the images of each rank in each micro-batch of a step."""

    name: str
    sizes: tuple[int, ...]
    dtype: torch.dtype = torch.float64
    num_steps: int = 1
    micro_batches: int = 1
    grad_checkpointing: bool = False

    def make(self) -> nn.Module:
        torch.manual_seed(0)
        checkpointing = self.grad_checkpointing and world_size() > 1  # one rank is the reference
        settings = dict(num_features=8, grad_checkpointing=checkpointing)
        network = get_model(self.name, **settings, **SMALL[self.name]).to(self.dtype)
        if self.dtype == torch.float32:
            # A kink of PReLU turns an error of rounding into a large one, with torch's BatchNorm too.
            for part in network.modules():
                if isinstance(part, nn.PReLU):
                    part.weight.data.fill_(1)
        return network

    def train(self) -> dict[str, Tensor]:
        """Trains on this rank's part of each batch: outputs, gradients and the state at the end."""
        network, head = self.make(), PartialFC(build_loss("cosface", s=8), 8, 5).to(self.dtype)
        convert_sync_batch_norm(network)
        ddp = data_parallel(network, torch.device("cpu"))
        optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.01, momentum=0.9)
        random, own, results = torch.Generator().manual_seed(1), own_part(self.sizes), {}
        for step in range(self.num_steps):
            for micro_batch in range(self.micro_batches):
                images = 1 + torch.randn(sum(self.sizes), 3, 112, 112, generator=random)
                images = images[own].to(self.dtype)
                labels = torch.arange(sum(self.sizes))[own] % 5
                with nullcontext() if micro_batch == self.micro_batches - 1 else ddp.no_sync():
                    output = ddp(images.requires_grad_())
                    (head(output, labels) / self.micro_batches).backward()
                place = f"{step}, {micro_batch}"
                # The gradient of a rank's images is that of the whole batch, times the world size.
                results |= {f"output {place}": output.detach(), f"input {place}": images.grad / world_size()}
            gradients = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
            results |= {f"{kind}, gradient {step}": g for kind, g in by_kind(gradients).items()}
            optimizer.step()
            optimizer.zero_grad()
        average_buffers(network)
        return results | by_kind(network.state_dict())


def by_kind(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All weights as one vector, all biases, all running means, and so on.

    Errors are then seen beside the largest number of a kind: a mean of numbers that the BatchNorm before has
    centred is itself nothing but error.
    """
    kinds = {name.rpartition(".")[2] for name in tensors}
    return {
        kind: torch.cat([tensor.flatten() for name, tensor in tensors.items() if name.endswith(f".{kind}")])
        for kind in sorted(kinds)
    }


NETWORKS = [
    Network("mbf", (2, 0, 1), num_steps=2),
    Network("mbf", (1, 2, 1), micro_batches=2, grad_checkpointing=True),
    Network("mbf", (3, 4, 2), torch.float32),
    Network("r18", (1, 1, 1)),
    Network("r18", (2, 1, 2), torch.float32),
]


def own_part(sizes: tuple[int, ...]) -> slice:
    """The images of this rank; the first rank has those of ranks that are not there."""
    missing = len(sizes) - world_size()
    sizes = (sum(sizes[: missing + 1]), *sizes[missing + 1 :])
    start = sum(sizes[: rank()])
    return slice(start, start + sizes[rank()])


def run_layers() -> list[dict[str, Tensor]]:
    """What each layer leaves on this rank."""
    results = []
    for layer in (*LAYERS, *FAR_FROM_ZERO):
        norm = layer.make()
        convert_sync_batch_norm(norm)
        results.append(layer.run(norm, own_part(layer.sizes)))
    return results


def warp_images() -> list[Tensor]:
    """What ARoFace makes of batches of 12, 2 and 5 images, of which it warps 3, none and 1; plain and not."""
    warped = []
    for convert in (lambda _: None, convert_sync_batch_norm):
        backbone, head = make_backbone(), make_head()
        convert(backbone)
        torch.manual_seed(3)
        warped.append(AlignmentPerturbation()(backbone, head, *batch((12, 2, 5)[rank()]))[0])
    assert backbone[1].over_ranks
    return warped


def run_all() -> tuple[list, list, list]:
    return run_layers(), [network.train() for network in NETWORKS], warp_images()


@pytest.fixture(scope="module")
def by_world() -> dict[int, list]:
    """For 1, 2 and 3 ranks what `run_all` returns on each."""
    return {world: run_ranks(world, run_all, timeout=400) for world in (1, 2, 3)}


def joined(results: list[dict[str, Tensor]], name: str) -> Tensor:
    """One result of the whole batch out of those of all ranks."""
    values = [result[name] for result in results]
    if name.startswith(("output", "input")):
        return torch.cat(values)
    if name.startswith("gradient of"):
        return sum(values)
    assert all(torch.equal(value, values[0]) for value in values), f"{name} differs between the ranks"
    return values[0]


def error(got: Tensor, expected: Tensor) -> float:
    """The largest difference, of the largest number."""
    expected = expected.double()
    return float((got.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-3))


def largest_error(results: list[dict[str, Tensor]], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest error of all results, and the name of that one."""
    assert results[0].keys() == expected.keys()
    return max((error(joined(results, name), expected[name]), name) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_layer_equals_torchs_on_the_whole_batch(by_world, world):
    of_layers = zip(*(layers for layers, _, _ in by_world[world]))
    for layer, results in zip(LAYERS, of_layers):
        worst, name = largest_error(results, layer.run(layer.make()))
        assert worst <= TOLERANCE[layer.dtype], (layer, name)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_statistics_of_numbers_far_from_zero_do_not_cancel(by_world, world):
    """Sums of squares would: 2000² has the seven digits of float32, and the variance is 1."""
    single, double = zip(*(layers[-2:] for layers, _, _ in by_world[world]))
    torchs, exact = (layer.run(layer.make()) for layer in FAR_FROM_ZERO)
    for name in exact:  # a number near 2000 is itself rounded by up to 1e-4
        assert error(joined(single, name), exact[name]) <= 2 * error(torchs[name], exact[name]) + 1e-4, name
    assert largest_error(double, exact)[0] <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("network", range(len(NETWORKS)), ids=lambda i: f"{NETWORKS[i].name}-{i}")
def test_ranks_train_a_network_to_the_weights_of_one(by_world, world, network):
    ((_, alone, _),) = by_world[1]
    results = [networks[network] for _, networks, _ in by_world[world]]
    worst, name = largest_error(results, alone[network])
    assert worst <= (1e-9 if NETWORKS[network].dtype == torch.float64 else 1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_aroface_s_pass_looks_at_the_images_of_its_own_rank(by_world, world):
    for _, _, (plain, synchronised) in by_world[world]:
        assert torch.equal(plain, synchronised)


# ---------------------------------------------------------------- conversion


def test_conversion_keeps_names_tensors_and_what_refers_to_the_layers():
    network = get_model("mbf", **MobileFaceNet.small)
    tensors = dict(network.state_dict(keep_vars=True))
    first = network.conv_sep.layers[1]
    convert_sync_batch_norm(network)
    assert network.conv_sep.layers[1] is first
    assert isinstance(first, SyncBatchNorm2d)
    after = network.state_dict(keep_vars=True)
    assert list(after) == list(tensors)
    assert all(after[name] is tensors[name] for name in tensors)
    assert not any(type(part) in (nn.BatchNorm1d, nn.BatchNorm2d) for part in network.modules())


def test_a_network_without_batch_norm_is_an_error():
    with pytest.raises(ValueError, match="sync_bn=true would be ignored: Sequential has no BatchNorm"):
        convert_sync_batch_norm(nn.Sequential(nn.Linear(2, 2)))


def test_evaluation_and_one_rank_are_torchs_own():
    layer = Layer(dtype=torch.float32)
    plain, synchronised = layer.make(), layer.make()
    convert_sync_batch_norm(synchronised)
    ((x, _), *_) = layer.batches()
    for norm in (plain, synchronised):
        norm(x)
        norm.eval()
    assert torch.equal(plain(x), synchronised(x))


def test_a_wrong_shape_is_an_error_as_with_torchs():
    norm = Layer().make()
    convert_sync_batch_norm(norm)
    with pytest.raises(ValueError, match="expected 4D input"):
        norm(torch.zeros(2, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("sync_bn", "batch_size", "smallest_part", "message"),
    [
        (False, 2, 1, r"leaves one image for a rank .* needs two: .*, or sync_bn=true"),
        (True, 1, 0, r"leaves one image for a rank .* needs two: a larger one, fewer ranks or gradient_acc$"),
        (False, 4, 2, None),
        (True, 2, 0, None),
    ],
)
def test_one_image_has_no_variance(sync_bn, batch_size, smallest_part, message):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    loader = SimpleNamespace(batch_size=batch_size, smallest_part=smallest_part)
    if message is None:
        prepare_batch_norm(network, sync_bn, loader)
    else:
        with pytest.raises(ValueError, match=message):
            prepare_batch_norm(network, sync_bn, loader)
    prepare_batch_norm(nn.Linear(3, 4), False, SimpleNamespace(batch_size=1, smallest_part=1))


def test_a_frozen_batch_norm_needs_no_batch_and_cannot_be_synchronised():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval())
    loader = SimpleNamespace(batch_size=1, smallest_part=1)
    prepare_batch_norm(network, False, loader)
    with pytest.raises(ValueError, match="sync_bn=true would be ignored: every BatchNorm is frozen"):
        prepare_batch_norm(network, True, loader)
