"""head_update="fused": centres move in the backward pass, as an optimiser would have moved them."""

import math
import re
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.ranks import run_ranks
from losses import build_loss, build_regularizer
from partial_fc import PartialFC
from ranks.data_parallel import data_parallel
from training import checkpoint
from training.head_update import HeadUpdate
from training.optimizer import build_optimizer, make_scaler
from training.step_guard import StepGuard
from training.training_state import TrainingState
from utils.distributed import rank, start_process_group, stop_process_group, world_size

CLASSES, SIZE, BATCH = 23, 8, 12
BATCHES = {1: (12,), 2: (5, 7), 3: (5, 0, 7)}
TABLES = {"ndr": {"ramp": None, "min_k": -1.0}, "disc": {"max_norm": 0.2}, "center": {}}
SCALES = {"softmax": {}, "circle": {"gamma": 16.0}, "sphereface": {}}
HOW = dict(weight_decay=0.05, no_decay_norm_bias=False, sampled_update="sparse")


@dataclass(frozen=True)
class Run:
    """One way to train; `fused` says how the centres move."""

    loss: str
    regularizers: tuple[str, ...] = ()
    optimizer: str = "sgd"
    precision: str = "fp32"
    dtype: torch.dtype = torch.float64
    one_kernel: bool = True  # of the optimiser; False: torch's plain one
    chunk_size: int = 4
    num_steps: int = 5
    num_classes: int = CLASSES
    momentum: float = 0.9

    def make(self, fused: bool, momentum_dtype: torch.dtype | None = None) -> "Training":
        return Training(self, fused, momentum_dtype)


class Training:
    """A linear backbone and a head, and the steps of their training."""

    def __init__(self, run: Run, fused: bool, momentum_dtype: torch.dtype | None = None):
        self.run = run
        torch.manual_seed(0)
        self.backbone = nn.Linear(6, SIZE).to(run.dtype)
        self.head = PartialFC(
            build_loss(run.loss, **SCALES.get(run.loss, {"s": 16.0})),
            SIZE,
            run.num_classes,
            chunk_size=run.chunk_size,
            regularizers=[build_regularizer(name, **TABLES[name]) for name in run.regularizers],
            precision=run.precision,
            head_update="fused" if fused else "optimizer",
        ).to(run.dtype)
        cfg = SimpleNamespace(**HOW, optimizer=run.optimizer, momentum=run.momentum)
        self.optimizer = build_optimizer(cfg, self.backbone, self.head, lr=0.05, fused=run.one_kernel)
        if fused:
            parameters = self.head.class_parameters()
            self.head.update_rule = HeadUpdate(self.optimizer, parameters, momentum_dtype)
        grouped = torch.distributed.is_initialized()
        self.ddp = data_parallel(self.backbone, torch.device("cpu")) if grouped else self.backbone

    def step(self, step: int) -> None:
        self.loss(step).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(BATCH, 6, generator=generator, dtype=torch.float64).to(self.run.dtype)
        labels = torch.randint(self.run.num_classes, (BATCH,), generator=generator)
        start = sum(BATCHES[world_size()][: rank()])
        mine = slice(start, start + BATCHES[world_size()][rank()])
        self.head.set_progress(step, step, 5)
        return self.head(self.ddp(images[mine]), labels[mine])

    def train(self) -> "Training":
        for step in range(self.run.num_steps):
            self.optimizer.param_groups[0]["lr"] = self.optimizer.param_groups[-1]["lr"] = 0.05 / (1 + step)
            self.step(step)
        return self

    def numbers(self) -> dict[str, Tensor]:
        """Weights, states and the optimiser's state, by name."""
        found = {f"backbone.{name}": p.detach() for name, p in self.backbone.named_parameters()}
        state = self.head.state_dict().items()
        found |= {f"head.{name}": value for name, value in state if isinstance(value, Tensor)}
        for number, entries in self.optimizer.state_dict()["state"].items():
            found |= {f"{number}.{name}": torch.as_tensor(value) for name, value in entries.items()}
        return {name: value.clone() for name, value in found.items()}


EVERYTHING = ("ndr", "disc", "center")
LOSSES = ("cosface", "softmax", "sphereface", "curricularface", "npcface", "circle", "uniface")
RUNS = [
    *(Run(loss) for loss in LOSSES),
    Run("npcface", optimizer="adamw", one_kernel=False),
    Run("cosface", optimizer="adamw", momentum=0.5),
    Run("cosface", momentum=0.0, one_kernel=False),
    Run("cosface", EVERYTHING),
    Run("softmax", EVERYTHING, one_kernel=False),
    Run("uniface", EVERYTHING, optimizer="adamw"),
    Run("curricularface", num_classes=1),
    Run("cosface", EVERYTHING, dtype=torch.float32, num_steps=2),
    Run("npcface", dtype=torch.float32, num_steps=2, chunk_size=100),
]


def both_ways() -> dict[Run, tuple[dict, dict]]:
    return {run: tuple(run.make(fused).train().numbers() for fused in (False, True)) for run in RUNS}


@pytest.mark.parametrize("world", BATCHES)
def test_fused_and_unfused_train_to_the_same_weights_and_states(world):
    for results in run_ranks(world, both_ways):
        for run, (plain, fused) in results.items():
            assert fused.keys() == plain.keys()
            tolerance = 1e-6 if run.dtype == torch.float32 else 1e-12
            for name, expected in plain.items():
                assert fused[name].shape == expected.shape
                if expected.numel():
                    error = (fused[name] - expected).abs().max()
                    assert error <= tolerance * expected.abs().max(), (run, name, error)


def test_half_precision_products_cost_what_they_cost_the_unfused_update():
    exact = Run("cosface", dtype=torch.float32).make(fused=False).train().numbers()
    for precision in ("bf16", "fp16"):
        run = Run("cosface", dtype=torch.float32, precision=precision)
        plain, fused = (run.make(way).train().numbers() for way in (False, True))
        for name, value in exact.items():
            allowed = (plain[name] - value).abs().max()
            assert 0 < (fused[name] - value).abs().max() <= 2 * allowed, (precision, name)


# ---------------------------------------------------------------- what a step needs


class Largest(TorchDispatchMode):
    """The tensors of at least so many numbers that operators return, and that are not in these memories.

    And the operators that would wait for a GPU.
    """

    def __init__(self, size: int, known: list[Tensor]):
        super().__init__()
        self.size, self.found, self.waits = size, [], []
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        result = function(*arguments, **(options or {}))
        self.waits += [name] if name in ("_local_scalar_dense", "nonzero", "_coalesce", "is_nonzero") else []
        for tensor in result if isinstance(result, list | tuple) else [result]:
            is_large = isinstance(tensor, Tensor) and tensor.numel() >= self.size
            if is_large and tensor.untyped_storage().data_ptr() not in self.known:
                self.found.append((name, tuple(tensor.shape)))
        return result


def test_the_update_waits_for_no_gpu():
    training = Run("curricularface", EVERYTHING, dtype=torch.float32).make(fused=True)
    loss = training.loss(0)
    with Largest(0, []) as operators:
        loss.backward()
    assert operators.waits == []
    assert len(operators.found) > 100


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("momentum_dtype", [None, torch.bfloat16])
def test_no_tensor_is_as_large_as_the_centres_but_them_and_the_state(optimizer, momentum_dtype):
    run = Run(
        "npcface", ("ndr", "disc", "center"), optimizer, dtype=torch.float32, num_classes=500, chunk_size=50
    )
    found = {}
    for fused in (True, False):
        training = run.make(fused, momentum_dtype if fused else None)
        training.step(0)
        state = [v for entries in training.optimizer.state.values() for v in entries.values()]
        known = [*training.head.class_parameters().values(), *state]
        with Largest(500 * SIZE, known) as largest:
            training.step(1)
        found[fused] = largest.found
        assert training.head.weight.grad is None
    assert found[True] == []
    assert found[False], "the measure finds the gradient of the centres"


def test_a_momentum_in_bf16_is_kept_in_bf16_and_costs_little():
    run = Run("cosface", dtype=torch.float32)
    exact, rounded = (run.make(True, dtype).train() for dtype in (None, torch.bfloat16))
    assert rounded.optimizer.state[rounded.head.weight]["momentum_buffer"].dtype == torch.bfloat16
    moved = exact.head.weight - run.make(True).head.weight
    assert 0 < (rounded.head.weight - exact.head.weight).abs().max() < 0.01 * moved.abs().max()


def test_a_graph_has_one_backward_pass_and_a_head_a_rule():
    training = Run("cosface").make(fused=True)
    labels = torch.arange(4)
    loss = training.head(training.backbone(torch.randn(4, 6).double()), labels)
    loss.backward(retain_graph=True)
    with pytest.raises(ValueError, match="the centres have moved, a graph has one backward pass"):
        loss.backward()
    training.head.update_rule = None
    with pytest.raises(ValueError, match="head_update='fused' needs an update_rule"):
        training.head(torch.randn(4, SIZE), labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "dense"}, "engine='dense' is out of range: it has to be 'stream'"),
        ({"sample_rate": 0.5}, "sample_rate=0.5 is out of range: it has to be 1"),
        ({"kernels": True}, "kernels=True is out of range: it has to be 'auto' or False"),
    ],
)
def test_what_it_cannot_do_is_refused(settings, message):
    with pytest.raises(ValueError, match=f"{re.escape(message)} with head_update='fused'"):
        PartialFC(build_loss("cosface"), SIZE, CLASSES, head_update="fused", **settings)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_centres_without_a_backbone_that_learns_move_too():
    training = Run("cosface", EVERYTHING).make(fused=True)
    before = training.head.weight.detach().clone()
    with torch.no_grad():
        embeddings = training.backbone(torch.randn(4, 6).double())
    training.head(embeddings, torch.arange(4)).backward()
    assert (training.head.weight != before).any(1).all()
    assert embeddings.grad is None


def test_neither_an_adversarial_pass_nor_an_evaluation_moves_a_centre():
    training = Run("cosface", EVERYTHING).make(fused=True).train()
    before = training.numbers()
    embeddings = torch.randn(4, SIZE).double().requires_grad_()
    with training.head.only_input_gradient():
        training.head(embeddings, torch.arange(4)).backward()
    assert embeddings.grad.abs().sum() > 0
    training.head.eval()(embeddings, torch.arange(4)).backward()
    with torch.no_grad():
        training.head.train()(embeddings, torch.arange(4))
    after = {name: value for name, value in training.numbers().items() if "regularizers" not in name}
    assert same(after, before)


# ---------------------------------------------------------------- steps that are not finite


def guarded(training: Training) -> StepGuard:
    scaler = make_scaler("fp32", torch.device("cpu"))
    cfg = SimpleNamespace(grad_clip=1.0, max_skipped_steps=3)
    return StepGuard(training.backbone, training.head, training.optimizer, scaler, cfg, range(9))


def spoil(training: Training, kind: str) -> None:
    """Make the next step not finite, on the last rank alone."""
    if rank() != world_size() - 1:
        return
    if kind == "centre":
        training.head.weight.data[-1, 0] = math.nan
    elif kind == "embeddings":
        training.backbone.register_forward_hook(lambda *inputs: inputs[2] * math.nan)
    elif kind == "gradient of the embeddings":
        training.head.loss.per_sample = lambda own, lse, norms: (own - own.detach()).abs().sqrt()
    elif kind == "backbone":
        training.backbone.weight.register_hook(lambda gradient: gradient * math.nan)


def broken_steps() -> None:
    kinds = ("centre", "embeddings", "gradient of the embeddings", "teacher", "backbone")
    for one_kernel, optimizer in ((True, "sgd"), (False, "adamw")):
        for kind in kinds:
            run = Run("curricularface", EVERYTHING, optimizer, one_kernel=one_kernel)
            training = run.make(fused=True)
            guard = guarded(training)
            for step in range(3):
                if step == 2:
                    spoil(training, kind)
                before = training.numbers()
                guard.begin()
                loss = training.loss(step)
                if kind == "teacher" and step == 2 and rank() == world_size() - 1:
                    loss = loss * math.nan
                guard.add(loss)
                loss.backward()
                guard.end()
            after, case = training.numbers(), (one_kernel, optimizer, kind)
            late = kind == "backbone"
            changed = {n for n in before if not torch.equal(after[n].nan_to_num(7), before[n].nan_to_num(7))}
            centres = {n for n in changed if after[n].shape[:1] == training.head.weight.shape[:1]}
            assert (changed == set()) == (not late), (case, changed)
            assert "head.weight" in centres or not late, case
            assert changed - centres <= {n for n in before if n.endswith(".step")}, (case, changed)
            numbers = guard.numbers()
            assert (numbers["skipped"], numbers["skipped_late"]) == (1, int(late)), case


@pytest.mark.parametrize("world", [1, 2])
def test_a_step_that_is_not_finite_on_one_rank_moves_no_centre_on_any(world):
    run_ranks(world, broken_steps)


# ---------------------------------------------------------------- checkpoints


def state_of(training: Training) -> TrainingState:
    scaler = make_scaler("fp32", torch.device("cpu"))
    return TrainingState(training.backbone, training.head, training.optimizer, scaler)


def train_and_save(run: Run, fused: bool, folder) -> None:
    state_of(run.make(fused).train()).save(folder, 3)


def go_on(run: Run, fused: bool, folder, momentum_dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    training = run.make(fused, momentum_dtype)
    state_of(training).load(folder, 3)
    training.step(7)
    training.step(8)
    return training.numbers()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_checkpoints_of_two_ranks_are_the_same_and_go_on_fused_and_unfused_on_one(optimizer, tmp_path):
    run = Run("cosface", EVERYTHING, optimizer)
    for fused in (False, True):
        run_ranks(2, train_and_save, run, fused, tmp_path / str(fused))
    start_process_group()
    try:
        plain, fused = (checkpoint.load(tmp_path / str(way), 0, CLASSES) for way in (False, True))
        torch.testing.assert_close(fused[1], plain[1], rtol=1e-12, atol=1e-12)
        names = [{n: set(e) for n, e in of[0]["optimizer"]["state"].items()} for of in (plain, fused)]
        assert names[0] == names[1]
        expected = go_on(run, False, tmp_path / "False")
        for saved_by, way in ((False, True), (True, False), (True, True)):
            numbers = go_on(run, way, tmp_path / str(saved_by))
            torch.testing.assert_close(numbers, expected, rtol=1e-11, atol=1e-11)
        rounded = go_on(run, True, tmp_path / "True", torch.bfloat16)
        assert {v.dtype for v in rounded.values()} >= {torch.bfloat16}
    finally:
        stop_process_group()
