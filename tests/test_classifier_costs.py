"""What docs/classifier.md says that a step costs, on the network and in memory, is what it does cost."""

import re
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.classifier_page import ENGINES, TEXT, make, table
from helpers.ranks import run_ranks
from losses import REGULARIZERS, build_loss
from partial_fc import PartialFC
from training.head_update import HeadUpdate
from training.row_optimizers import SGD
from utils.distributed import rank

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
EXAMPLE = dict(W=8, b=128, B=1024, D=512, n=125_000, C=1_000_000)  # the sizes of the worked example


def size_of(words: str) -> float:
    """Bytes of `3.5 MiB`."""
    number, unit = words.replace(",", "").split()
    return float(number) * UNITS[unit]


# ---------------------------------------------------------------- what crosses the network


COLLECTIVES = [name for name in dir(dist) if re.match("all_|broadcast|gather|reduce_scatter|scatter", name)]


def collectives(cases: list[tuple[str, str, bool]]) -> list[tuple[list, list]]:
    """Every collective of a step of each (names, engine, adversarial): forward and backward.

    Engine "fused" is `stream` with head_update="fused". Each is what it does, and the shape and the type of
    this rank's tensor.
    """
    seen = []

    def watch(name: str) -> None:
        call = getattr(dist, name)

        def watched(*args):
            tensor = args[1] if name == "all_gather" else args[0]
            reduction = args[1] if name == "all_reduce" else None
            what = {dist.ReduceOp.SUM: "sum", dist.ReduceOp.MAX: "max"}.get(reduction, name)
            seen.append((what.removeprefix("all_"), tuple(tensor.shape), str(tensor.dtype)[6:]))
            return call(*args)

        setattr(dist, name, watched)

    for name in COLLECTIVES:
        watch(name)
    counted = []
    for names, engine, adversarial in cases:
        head = make_any(names, engine)
        embeddings = torch.randn(4 + rank(), 6, requires_grad=True)
        with head.only_input_gradient() if adversarial else nullcontext():
            head(embeddings, torch.arange(4 + rank()))  # how many labels there are is known from then on
            seen.clear()
            loss = head(embeddings, torch.arange(4 + rank()) + 10 * rank())
            forward = list(seen)
            loss.backward()
        counted.append((forward, seen[len(forward) :]))
        seen.clear()
    return counted


class NoUpdate:
    """An update rule that moves nothing."""

    step_loss = torch.zeros(())

    def start(self, skipped: torch.Tensor) -> None:
        """Before the first rows of a step."""

    def step_rows(self, parameter: torch.nn.Parameter, rows: slice, gradient: torch.Tensor) -> None:
        """For each part of the centres."""


def make_any(names: str, engine: str) -> PartialFC:
    """A head of this engine, or with engine="fused" one whose centres move in the backward pass."""
    if engine != "fused":
        return make(names, engine=engine)
    head = make(names, head_update="fused")
    head.update_rule = NoUpdate()
    return head


def test_the_tables_of_collectives_are_those_of_the_real_ones():
    documented = {}
    for _, names, *numbers in table("kind of loss"):
        for engine, counts in zip(ENGINES, (numbers[:2], numbers[2:])):
            documented[names.replace("`", ""), engine, False] = [int(count) for count in counts]
    assert set(REGULARIZERS) <= {name for names, *_ in documented for name in names.split(" + ")}
    everything, fused = (("everything + ndr + disc + center", way, False) for way in ("stream", "fused"))
    adversarial = [("uniface", engine, True) for engine in ENGINES]
    bounded = ("cosface + ndr + center", "stream", False)
    cases = [*documented, everything, fused, bounded, *adversarial]
    by_rank = run_ranks(2, collectives, cases)
    real = dict(zip(cases, by_rank[0]))
    assert by_rank[0] == by_rank[1], "ranks that bring 4 and 5 samples make the same calls"
    assert {case: [len(part) for part in real[case]] for case in documented} == documented
    # In ARoFace's pass all but the gradient of the bias is summed.
    assert [len(real[case][1]) for case in adversarial] == [2, 1]

    rows = [
        (when, (kind, *read_tensor(tensor, dict(W=2, b=5, B=9, D=6))), set(re.split(", ", needed_by)))
        for when, _, kind, tensor, needed_by, _ in table("pass")
    ]
    of_any = {"all", "`class_rows`"}
    not_linear = of_any | {"not linear", "not bounded", "`has_row_statistics`"}
    for case, kinds, num_tables in (
        (everything, not_linear, 2),
        (fused, not_linear | {'`head_update="fused"`'}, 2),
        (bounded, of_any | {"linear", "bounded", "`needs_max_cos`"}, 1),
    ):
        expected = {"forward": [], "backward": []}
        for when, call, needed_by in rows:
            if needed_by <= kinds:
                expected[when] += [call] * (num_tables if "`class_rows`" in needed_by else 1)
        assert real[case] == (expected["forward"], expected["backward"]), case
    (lengths,) = (call for _, call, needed_by in rows if needed_by == {"`softmax`"})
    assert real["softmax", "stream", False][0][-1] == lengths


def read_tensor(cell: str, sizes: dict[str, int]) -> tuple[tuple[int, ...], str]:
    """Shape and type of "`(b, D)` int64"."""
    shape, dtype = re.fullmatch(r"`(\(.*\))` ?(\w*)", cell).groups()
    return eval(shape.replace("·", "*"), {}, sizes), dtype or "float32"


def test_the_bytes_follow_from_the_shapes():
    total = 0.0
    ring = (EXAMPLE["W"] - 1) / EXAMPLE["W"]
    for _, what, kind, tensor, needed_by, example in table("pass"):
        shape, dtype = read_tensor(tensor, EXAMPLE)
        parts = EXAMPLE["W"] if kind == "gather" else 2
        sent = ring * parts * torch.Size(shape).numel() * (8 if dtype == "int64" else 4)
        assert sent == pytest.approx(size_of(example), rel=0.005), what
        total += sent * (needed_by in ("all", "linear"))
    for words, size in (
        (r"A bounded loss: ([\d.]+ MiB) a step", total),
        (r"the logits would be ([\d.]+ GiB)", 4 * EXAMPLE["B"] * EXAMPLE["C"]),
        (r"the gradient of all centres\s([\d.]+ GiB)", 4 * EXAMPLE["C"] * EXAMPLE["D"]),
    ):
        assert size_of(re.search(words, TEXT)[1]) == pytest.approx(size, rel=0.01)


# ---------------------------------------------------------------- memory and products


def formula(cell: str, sizes: dict[str, int]) -> float:
    """The number that `5.5·B·D + 3·chunk·max(B, D)` is."""
    return eval(cell.replace("·", "*"), {"max": max}, sizes)


def peak_of_step(loss: str, engine: str, sizes: dict[str, int]) -> float:
    """Numbers of 4 bytes, beyond the centres' gradient, at the worst moment of a step."""
    batch, dim, classes = sizes["B"], sizes["D"], sizes["n"]
    if is_fused := engine == "fused":
        how = dict(head_update="fused")
    else:
        how = dict(engine=engine)
    head = PartialFC(build_loss(loss), dim, classes, chunk_size=sizes["chunk"], **how)
    if is_fused:
        optimizer = SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, fused=True)
        head.update_rule = HeadUpdate(optimizer, head.class_parameters())
        optimizer.start_state(head.weight)
    embeddings = torch.randn(batch, dim, requires_grad=True)
    labels = torch.randint(classes, (batch,))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        head(embeddings, labels).backward()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).cumsum(0)
    return held.max().item() / 4 - (0 if is_fused else dim * classes)


@pytest.mark.parametrize(("engine", "loss", "beyond"), [row[:3] for row in table("engine")])
@pytest.mark.parametrize("chunk", [512, 4096])
def test_the_memory_of_a_step_is_what_the_formula_says(engine, loss, beyond, chunk):
    sizes = dict(B=256, D=128, n=8192, chunk=chunk)
    measured = peak_of_step(*(re.search("`(.*?)`", cell)[1] for cell in (loss, engine)), sizes)
    assert measured == pytest.approx(formula(beyond, sizes), rel=0.05)


@pytest.mark.parametrize(
    ("batch", "bounds"),
    [(128, {"cosface": 2, "curricularface": 10}), (512, {"cosface": 1.417, "curricularface": 6.75})],
)
def test_the_factor_of_the_chunk_stays_in_the_range_told(batch, bounds):
    for loss, factor in bounds.items():
        small, large = (
            peak_of_step(loss, "stream", dict(B=batch, D=128, n=8192, chunk=chunk)) for chunk in (512, 4096)
        )
        assert (large - small) / (4096 - 512) / batch == pytest.approx(factor, rel=0.02)


@pytest.mark.parametrize("row", table("engine"), ids=lambda row: row[0] + row[1])
def test_the_example_of_memory_is_the_formula_s(row):
    for chunk, cell in zip((1024, 65_536), row[3:]):
        if cell:
            expected = 4 * formula(row[2], EXAMPLE | {"chunk": chunk})
            assert size_of(cell) == pytest.approx(expected, rel=0.01)
    assert size_of(re.search(r"and (\d+ MiB) for the centres", TEXT)[1]) == pytest.approx(
        4 * EXAMPLE["n"] * EXAMPLE["D"], rel=0.01
    )


@pytest.mark.parametrize(
    ("loss", "size", "adversarial", "expected"),
    [
        ("cosface", 8, False, 3),
        ("cosface", 32, False, 3 + 3 / 4),
        ("curricularface", 32, False, 3 + 3 / 4),
        ("npcface", 32, False, 3 + 2 * 3 / 4),
        ("cosface", 8, True, 3),
        ("npcface", 8, True, 4),
        *(("cosface", size, "fused", 4) for size in (8, 32)),
        *((loss, 32, "fused", 5) for loss in ("npcface", "uniface")),
    ],
)
def test_a_step_takes_as_many_products_as_the_page_says(loss, size, adversarial, expected):
    work = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket == torch.ops.aten.mm:
                work.append(args[0].numel() * args[1].shape[1])
            return function(*args, **(kwargs or {}))

    is_fused = adversarial == "fused"
    head = PartialFC(build_loss(loss), 8, 20, chunk_size=7, head_update="fused" if is_fused else "optimizer")
    head.update_rule = NoUpdate()
    embeddings = torch.randn(size, 8, requires_grad=True)
    with Count(), head.only_input_gradient() if adversarial is True else nullcontext():
        head(embeddings, torch.arange(size) % 20).backward()
    assert sum(work) / (size * 8 * 20) == pytest.approx(expected)
