"""What a run will need of memory is told before it starts, and is what it needs."""

import re

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import partial_fc
from backbones import get_model
from helpers.job_files import load
from losses import build_loss, build_regularizer
from training import memory
from training.head_update import make_head_update
from training.memory import bytes_of_activations, bytes_of_centres, estimate_memory
from training.optimizer import build_optimizer
from utils.blocks import default_chunk_size
from utils.precision import autocast

CPU = torch.device("cpu")
NETWORKS = ("mbf", "r18")


def peak_of_passes(network, images: torch.Tensor, precision: str) -> int:
    """Bytes allocated at the worst moment of a forward and a backward pass."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with autocast(CPU, precision):
            embeddings = network(images)
        embeddings.square().mean().backward()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).cumsum(0).max())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_activations_are_estimated_within_a_fifth_and_nothing_changes(name, precision):
    network = get_model(name).train().to(memory_format=torch.channels_last)
    before = [tensor.clone() for tensor in network.state_dict().values()]
    state = torch.get_rng_state()
    estimated = bytes_of_activations(network, 8, CPU, precision, channels_last=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values()))
    images = torch.randn(8, 3, 112, 112).contiguous(memory_format=torch.channels_last)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)  # they are there already in all steps but the first
    measured = peak_of_passes(network, images, precision)
    assert estimated == pytest.approx(measured, rel=0.2)


def test_recomputed_activations_need_less():
    plain, recomputing = (get_model("r18", grad_checkpointing=flag).train() for flag in (False, True))
    kept = [bytes_of_activations(network, 4, CPU, "fp32", False) for network in (plain, recomputing)]
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize(
    ("overrides", "numbers"),
    [
        ("", 3),
        ("regularizers=['center']", 4),
        ("regularizers=['disc','center']", 7),
        ("regularizers=['disc','ndr'] head_update=fused", 4),
        ("regularizers=['disc'] sample_rate=0.25 optimizer=adamw", 6.5),
        ("head_update=fused", 2),
        ("head_update=fused head_momentum=bf16", 1.5),
        ("head_update=fused head_momentum=bf16 momentum=0", 1),
        ("head_update=fused head_momentum=bf16 optimizer=adamw", 2.5),
        ("momentum=0", 2),
        ("optimizer=adamw", 4),
        ("sample_rate=0.25", 2.25),
        ("init_head=class_means pretrained=a.pt freeze=[head]", 1),
    ],
)
def test_the_bytes_of_the_centres_are_those_of_a_step(overrides, numbers):
    cfg = load("embedding_size=8", *overrides.split())
    terms = [build_regularizer(name, **hyper) for name, hyper in cfg.regularizers]
    parts = bytes_of_centres(cfg, terms, num_classes=400, batch=4)
    assert sum(parts.values()) == 4 * 8 * 400 * numbers
    how = dict(sample_rate=cfg.sample_rate, head_update=cfg.head_update, regularizers=terms)
    head = partial_fc.PartialFC(build_loss("cosface"), 8, 400, **how)
    if "head" in cfg.freeze:
        return
    backbone = torch.nn.Linear(2, 8)
    optimizer = build_optimizer(cfg, backbone, head, lr=0.1)
    head.update_rule = make_head_update(cfg, optimizer, head)
    head.set_progress(0, 0.0, 1.0)
    head(backbone(torch.randn(4, 2)), torch.arange(4)).backward()
    optimizer.step()
    held = list(head.class_parameters().values())
    for table in list(held):
        if (gradient := table.grad) is not None:
            held.append(gradient._values() if gradient.is_sparse else gradient)
        if table.requires_grad:
            held += [v for v in optimizer.state[table].values() if torch.is_tensor(v) and v.ndim]
    assert sum(tensor.nbytes for tensor in held) == sum(parts.values())


def test_a_run_whose_centres_alone_exceed_the_device_is_refused_with_what_helps(monkeypatch):
    cfg, backbone = load("network=mbf", "precision=fp32"), get_model("mbf").train()
    line = estimate_memory(cfg, backbone, [], 1000, 8, CPU)
    assert re.match(r"memory in GiB: class centres 0\.00, gradient 0\.00, optimiser 0\.00; est", line)
    monkeypatch.setattr(memory, "memory_of", lambda device: 3 * 4 * 512 * 1000)
    assert estimate_memory(cfg, backbone, [], 1000, 8, CPU)
    with pytest.raises(ValueError, match=r"num_classes=1001 on 1 rank.*More ranks.*head_update.*sample_rate"):
        estimate_memory(cfg, backbone, [], 1001, 8, CPU)


def test_a_network_whose_shapes_cannot_be_told_is_no_reason_not_to_train():
    class Counts(torch.nn.Linear):
        def forward(self, images):
            return super().forward(images.flatten(1)[:, : int((images > 9).sum())])

    line = estimate_memory(load("precision=fp32"), Counts(2, 512), [], 1000, 8, CPU)
    assert "activations not known (" in line


def test_a_device_that_nobody_measured_takes_the_blocks_of_a_cpu():
    assert default_chunk_size(32, torch.device("meta")) == default_chunk_size(32, CPU) == 32768
    assert default_chunk_size(32, torch.device("cuda")) > 32768
