"""docs/classifier.md: the order of calls and the figure are the code's, and the examples run."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from helpers.classifier_page import ENGINES, TEXT, make, table
from helpers.ranks import run_ranks
from losses import MarginLoss
from partial_fc import PartialFC, initial_centres
from tools import classifier_figure
from utils.distributed import rank, world_size
from utils.seeds import seed_of

ROOT = Path(__file__).resolve().parents[1]
CODE = re.search(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[1]
EXAMPLES: dict[str, type[MarginLoss]] = {}
exec(compile(CODE, "docs/classifier.md", "exec"), EXAMPLES)


# ---------------------------------------------------------------- the order of calls

OF_LOSS = "set_progress draw update_state row_statistics other_logits own_logit per_sample".split()
OF_REGULARIZER = "set_progress update_state new_rows forward".split()


def watch(head: PartialFC) -> list[tuple[str, list[tuple], list[bool]]]:
    """What loss and regularisers are asked from now on: (call, shapes, which of them carry gradient)."""
    calls = []

    def ask(name, method, *args):
        given = args[0] if isinstance(args[0], tuple) else args  # a Batch
        tensors = [value for value in given if torch.is_tensor(value)]
        carry = [t.requires_grad and torch.is_grad_enabled() for t in tensors]
        calls.append((name, [tuple(t.shape) for t in tensors], carry))
        return method(*args)

    for name in OF_LOSS:
        setattr(head.loss, name, partial(ask, name, getattr(head.loss, name)))
    for regularizer in head.regularizers:
        for name in OF_REGULARIZER:
            setattr(regularizer, name, partial(ask, f"regularizer.{name}", getattr(regularizer, name)))
    return calls


def step(names: str, engine: str) -> tuple[list, list]:
    """What is asked forward and backward, of 7 samples, of 23 classes in chunks of 5."""
    head = make(names, engine=engine)
    calls = watch(head)
    head.set_progress(0, 0.0, 1.0)
    loss = head(torch.randn(7, 6, requires_grad=True), torch.arange(7))
    forward = list(calls)
    loss.backward()
    return forward, calls[len(forward) :]


def order(calls: list) -> list[str]:
    """Names, each where it is first asked."""
    return list(dict.fromkeys(name for name, *_ in calls))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_calls_come_in_the_order_of_the_table(engine):
    documented = [re.match(r"`([\w.]+)", call)[1] for _, call, *_ in table("step")]
    documented = ["regularizer.forward" if name == "regularizer" else name for name in documented]
    forward, backward = step("everything + center", engine)
    assert [name for name in order(forward) if name != "regularizer.set_progress"] == documented[:-1]
    assert order(backward) == (documented[-1:] if engine == "stream" else [])


@pytest.mark.parametrize("engine", ENGINES)
def test_shapes_and_gradients_of_the_calls_are_those_of_the_table(engine):
    forward, backward = step("everything + ndr + disc + center", engine)
    of = {name: [call[1:] for call in forward if call[0] == name] for name in order(forward)}
    assert of["update_state"] == [([(7,)] * 2, [False] * 2)]
    assert of["row_statistics"][0] == ([(7, 0), (7, 1), (7, 1)], [False] * 3)
    # 7 samples, 6 of them with products in the memory of the gradient, by 5 chunks.
    blocks = [[(rows, n), (rows, 1), (rows, 1)] for n in (5, 5, 5, 5, 3) for rows in (6, 1)]
    if engine == "dense":
        blocks = [[(7, 23), (7, 1), (7, 1)]]
    assert of["row_statistics"][1:] == [(shapes, [False] * 3) for shapes in blocks]
    assert of["other_logits"] == [(shapes, [engine == "dense"] * 3) for shapes in blocks]
    again = blocks if engine == "stream" else []
    assert backward == [("other_logits", shapes, [True] * 3) for shapes in again]
    assert of["own_logit"] == [([(7,)] * 2, [True] * 2)]
    assert of["per_sample"] == [([(7,)] * 3, [True] * 3)]

    for name in ("regularizer.update_state", "regularizer.new_rows"):
        assert not any(any(carry) for _, carry in of[name])
    assert len(of["regularizer.new_rows"]) == 1, "center alone has rows that no optimiser moves"
    matrix, vector = (7, 6), (7,)
    # raw, embeddings, norms, labels, own_centres, max_cos
    fields, carry = [matrix, matrix, vector, vector, matrix, vector], [True, True, True, False, True, False]
    assert of["regularizer.forward"] == [
        (fields, carry),  # ndr
        ([*fields, matrix], [*carry, True]),  # disc, whose rows an optimiser moves
        ([*fields, matrix], [*carry, False]),  # center
    ]


def test_stream_does_not_ask_a_linear_loss_for_its_logits():
    assert "other_logits" not in order(step("cosface", "stream")[0])
    assert "other_logits" in order(step("cosface", "dense")[0])


# ---------------------------------------------------------------- the examples


def random_margin(cos: torch.Tensor, labels: torch.Tensor, head: PartialFC) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed_of(head.seed, 0, 0, 3))
    margin = 2 * 0.35 * torch.rand(len(labels), generator=generator)
    own = F.one_hot(labels, cos.shape[1])
    return F.cross_entropy(64 * (cos - own * margin[:, None]), labels)


def learnt_threshold(cos: torch.Tensor, labels: torch.Tensor, head: PartialFC) -> torch.Tensor:
    z = 16 * cos - head.loss.bias
    own = F.one_hot(labels, cos.shape[1]).bool()
    return torch.where(own, F.softplus(-z), F.softplus(z)).sum(1).mean()


WHOLE_MATRIX = {"RandomMargin": random_margin, "LearntThreshold": learnt_threshold}


def run_examples(engine: str) -> dict[tuple[str, str], tuple]:
    """Loss and this rank's gradients of each example, by this engine and with the whole matrix."""
    results = {}
    for name, whole_matrix in WHOLE_MATRIX.items():
        generator = torch.Generator().manual_seed(1)
        everything = 5 * torch.randn(12, 6, generator=generator, dtype=torch.float64)
        labels = torch.randint(23, (12,), generator=generator)
        head = PartialFC(EXAMPLES[name](), 6, 23, engine=engine, chunk_size=5, seed=2).double()
        mine = slice(rank() * 5, 12 if rank() == world_size() - 1 else 5)  # 5 and 7 of two ranks
        local = everything[mine].clone().requires_grad_()
        loss = head(local, labels[mine])
        loss.backward()
        learnt = [p.grad.clone() for p in head.loss.parameters()]

        centres = initial_centres(2, 0, 23, 6).double().requires_grad_()
        everything.requires_grad_()
        head.loss.zero_grad()
        expected = whole_matrix(F.normalize(everything) @ F.normalize(centres).T, labels, head)
        expected.backward()
        own = slice(head.class_start, head.class_start + head.num_local)
        results |= {
            (name, "loss"): (loss.detach(), expected.detach()),
            (name, "embeddings"): (local.grad / world_size(), everything.grad[mine]),
            (name, "centres"): (head.weight.grad, centres.grad[own]),
            (name, "parameters"): (learnt, [p.grad for p in head.loss.parameters()]),
        }
    return results


def run_engines() -> list[dict]:
    return [run_examples(engine) for engine in ENGINES]


@pytest.mark.parametrize("world", [1, 2])
def test_the_examples_are_exact_with_both_engines_in_float64(world):
    for by_engine in run_ranks(2, run_engines) if world == 2 else [run_engines()]:
        for engine, results in zip(ENGINES, by_engine):
            for (name, what), (got, expected) in results.items():
                message = f"{engine}, {name}: {what}"
                torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12, msg=message)


class LearntScale(MarginLoss):
    moves_others = True

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(16.0))


def test_a_learnt_scale_that_is_declared_gets_its_whole_gradient():
    gradients = []
    for engine in ENGINES:
        head = PartialFC(LearntScale(), 6, 23, engine=engine, chunk_size=5).double()
        head(torch.eye(6, dtype=torch.float64), torch.arange(6)).backward()
        gradients.append(head.loss.scale.grad)
    torch.testing.assert_close(*gradients)


# ---------------------------------------------------------------- figure and links


def test_the_figure_is_what_its_tool_draws(tmp_path):
    classifier_figure.draw(tmp_path / "again.png")
    pictures = tmp_path / "again.png", ROOT / "docs/images/classifier.png"
    sizes = {Image.open(picture).size for picture in pictures}
    assert len(sizes) == 1


def test_the_figure_has_the_steps_and_calls_of_the_page():
    axes = Figure().add_subplot()
    classifier_figure.draw_steps(axes)
    shown = {words.get_text() for words in axes.texts}
    assert {number for number, *_ in table("step")} <= shown
    called = re.findall(r"\w+", " ".join(w.get_text() for w in axes.texts if "Mono" in w.get_fontname()))
    assert {name for name in called if hasattr(MarginLoss, name)} == set(OF_LOSS)


def test_links_commands_and_files_are_there():
    for path in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (ROOT / "docs" / path).is_file(), path
    for path in re.findall(r"^    python (\S+)", TEXT, re.MULTILINE):
        assert (ROOT / path).is_file(), path
    named = {name for row in table("file") for name in re.findall(r"`(\S+\.py)`", row[0])}
    assert all((ROOT / name).is_file() for name in named)
    engines = {f"classifier/{file.name}" for file in (ROOT / "classifier").glob("*.py")}
    assert engines - named == {"classifier/__init__.py"}
