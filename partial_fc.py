"""PartialFC: the classifier of face recognition, sharded over the ranks, sampled, streamed over its classes.

After An et al., Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by
Partial FC, CVPR 2022, https://arxiv.org/abs/2203.15565. Each rank holds the centres of a contiguous range of
classes. Embeddings of all ranks are gathered; each rank compares them with its own centres
(`classifier/`); only vectors over the batch cross the network after that. A loss (`losses/`) is
row-local maths and knows nothing of ranks, sampling, chunks or precision.

Crossing the network per step, with B samples on all ranks together: embeddings (B, D) and labels forward,
their gradient (B, D) backward, a handful of (B,) vectors, and what regularisers ask for: own centres and own
rows (B, D). docs/classifier.md counts it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from classifier.centres import initial_centres
from classifier.class_update import ClassUpdate, check_fused
from classifier.dense import dense
from classifier.fused import fused_stream
from classifier.kernels.choice import check_setting, use_kernels
from classifier.own_classes import own_cosines
from classifier.shard import Shard
from classifier.step import Step
from classifier.step_loss import StepLoss
from classifier.stream import stream
from losses.base import Batch, MarginLoss, Regularizer
from utils.blocks import default_chunk_size
from utils.distributed import CopyToShards, GatherRows, gather_labels, rank, world_size
from utils.errors import require
from utils.precision import PRECISIONS
from utils.seeds import seed_of
from utils.unit_vectors import inverse_norm, normalise

DRAW_STREAM, SAMPLE_STREAM = 3, 4  # last numbers of the seeds of `MarginLoss.draw`, and of the sampling


class PartialFC(nn.Module):
    """Class centres, sharded over the ranks, and the loss of a global batch against them.

    Rank r of W holds a contiguous range of classes, the first num_classes % W ranks one more. Centre j starts
    from (seed, j) alone. At `sample_rate` < 1 a step sees the batch's own classes and, to fill up, others
    drawn anew on each rank; gradients are then sparse over those rows.

    Args:
        loss: makes a loss of the cosines; part of this module, equal on every rank in buffers and parameters.
        sample_rate: share of this rank's classes that take part in a step, in [0, 1]; 0: the batch's own.
        regularizers: further terms on the embeddings.
        engine: "stream" or "dense".
        chunk_size: classes per chunk of `stream`; None: a few MiB per block on a CPU, 256 MiB on a GPU.
        precision: of the matrix products: "fp32", "bf16" or "fp16". All else is float32.
        kernels: whether `stream` runs in GPU kernels: True, False, or "auto": where they were measured to be
            right and faster (classifier/kernels/choice.py).
        filter_gradients: with kernels=True, leave out of the backward pass the tiles of samples and classes
            whose probabilities all lie below 2^-12 in bf16, 2^-15 in fp16, 2^-28 in fp32.
        head_update: "optimizer": gradients go to an optimiser. "fused": the backward pass of a training step
            moves centres and trained `class_rows` by `update_rule`, and makes no gradient of them.
        seed: of the centres and of the sampling.

    Attributes of the last step, detached: `last_terms`, the parts of the loss; `last_samples`, "own_cosine"
    and "norm" of this rank's samples, `(b,)` each; `last_means`, their means over the global batch;
    `sampled`, class ids.

    Attributes:
        update_rule: for "fused", to be set before the first step: training/head_update.py has one. It gets
            start(skipped) with a number that is 1 where the step is not finite on any rank, else 0; then
            step_rows(parameter, rows, gradient) for consecutive rows of each parameter. Its `step_loss` `()`
            has to be finite too.
    """

    def __init__(
        self,
        loss: MarginLoss,
        embedding_size: int,
        num_classes: int,
        *,
        sample_rate: float = 1.0,
        regularizers: Sequence[Regularizer] = (),
        engine: str = "stream",
        chunk_size: int | None = None,
        precision: str = "fp32",
        kernels: bool | str = "auto",
        filter_gradients: bool = False,
        head_update: str = "optimizer",
        seed: int = 0,
    ):
        super().__init__()
        require(num_classes >= 1, "num_classes", num_classes, ">= 1")
        require(0 <= sample_rate <= 1, "sample_rate", sample_rate, "in [0, 1]")
        require(engine in ("stream", "dense"), "engine", engine, "'stream' or 'dense'")
        require(chunk_size is None or chunk_size >= 1, "chunk_size", chunk_size, ">= 1, or None")
        require(precision in PRECISIONS, "precision", precision, f"one of {tuple(PRECISIONS)}")
        require(kernels == "auto" or isinstance(kernels, bool), "kernels", kernels, "True, False or 'auto'")
        require(head_update in ("optimizer", "fused"), "head_update", head_update, "'optimizer' or 'fused'")
        if head_update == "fused":
            check_fused(engine, sample_rate, kernels)
        self.loss = loss
        self.regularizers = nn.ModuleList(regularizers)
        self.num_classes, self.sample_rate = num_classes, sample_rate
        self.engine, self.chunk_size, self.precision, self.seed = engine, chunk_size, precision, seed
        self.kernels, self.filter_gradients, self.head_update = kernels, filter_gradients, head_update
        self.update_rule = None

        share, left = divmod(num_classes, world_size())
        self.class_start = share * rank() + min(rank(), left)
        self.num_local = share + (rank() < left)
        self.weight = nn.Parameter(initial_centres(seed, self.class_start, self.num_local, embedding_size))
        names = [regularizer.name for regularizer in self.regularizers]
        self.term_names = [
            name if names.count(name) == 1 else f"{name}_{names[:i].count(name) + 1}"
            for i, name in enumerate(names)
        ]
        loss.check_declarations()
        check_setting(kernels, loss, engine)
        require(
            kernels is True or not filter_gradients, "filter_gradients", True, "False unless kernels=True"
        )
        loss.prepare(max(int(sample_rate * num_classes), 1))
        for regularizer in self.regularizers:
            regularizer.prepare(self.num_local, embedding_size)
        self.num_samplings = self.step = self.micro_batch = self._room_for_labels = 0
        self.sampled = torch.arange(self.class_start, self.class_start + self.num_local)
        self.last_terms: dict[str, Tensor] = {}
        self.last_samples: dict[str, Tensor] = {}
        self.last_means: dict[str, Tensor] = {}
        self._only_input_gradient = False
        self._replaced_rows: list[tuple[Shard, Tensor, Tensor]] | None = None

    def extra_repr(self) -> str:
        classes = f"classes {self.class_start}..{self.class_start + self.num_local - 1} of {self.num_classes}"
        return f"{classes}, sample_rate={self.sample_rate}, {self.engine}"

    def get_extra_state(self) -> dict:
        """What the random draws of the next step depend on; part of `state_dict`."""
        return {"num_samplings": self.num_samplings, "step": self.step, "micro_batch": self.micro_batch}

    def set_extra_state(self, state: dict) -> None:
        """Put back what `get_extra_state` returned; older checkpoints lack step and micro_batch."""
        self.num_samplings = state["num_samplings"]
        self.step, self.micro_batch = state.get("step", 0), state.get("micro_batch", 0)

    def remember_class_rows(self) -> None:
        """From now on keep the rows that regularisers replace by a formula, for `put_back_class_rows`."""
        self._replaced_rows = []

    def put_back_class_rows(self, where: Tensor) -> None:
        """Undo that where `where`, a number on the device, is not 0; keep no rows from now on."""
        for shard, table, rows in reversed(self._replaced_rows):
            shard.scatter_own(table, rows, where)
        self._replaced_rows = None

    def set_progress(self, step: int, epoch: float, num_epoch: float) -> None:
        """Tell where training stands, before each optimiser step: for ramps, annealing and random draws.

        Args:
            step: from 0. What a loss draws is a function of it and of the number of micro-batches since.
        """
        self.step, self.micro_batch = int(step), 0
        for module in (self.loss, *self.regularizers):
            module.set_progress(step, epoch, num_epoch)

    def class_parameters(self) -> dict[str, nn.Parameter]:
        """By name, what has one row for each of this rank's classes: what a checkpoint saves by class."""
        return {"weight": self.weight, **dict(self.regularizers.named_parameters("regularizers"))}

    @contextmanager
    def only_input_gradient(self):
        """Within this context a step changes no state, and only its input gets a gradient: for ARoFace."""
        learnt = [parameter for parameter in self.loss.parameters() if parameter.requires_grad]
        before, self._only_input_gradient = self._only_input_gradient, True
        for parameter in learnt:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            self._only_input_gradient = before
            for parameter in learnt:
                parameter.requires_grad_(True)

    def forward(self, local_embeddings: Tensor, local_labels: Tensor) -> Tensor:
        """The mean loss over the global batch, the same on every rank.

        Args:
            local_embeddings: `(b, D)` raw, any b >= 0; b may differ between ranks.
            local_labels: `(b,)` in [0, num_classes). Best left on the CPU, where checking waits for no GPU.
        Returns:
            0-dim. The gradient of local_embeddings is the global one times the world size, for DDP to divide.
        Raises:
            ValueError: unequal numbers of embeddings and labels; on every rank alike, no sample on any of
                them, or a label outside [0, num_classes).
        """
        sizes = len(local_embeddings), len(local_labels)
        if sizes[0] != sizes[1]:
            raise ValueError(f"{sizes[0]} embeddings, {sizes[1]} labels: each needs the other")
        if self.weight.dtype in PRECISIONS.values() and self.weight.dtype != torch.float32:
            raise ValueError(f"class centres of {self.weight.dtype}: keep them float32, and set precision")
        counts, labels = gather_labels(local_labels.cpu(), self._room_for_labels)
        self._room_for_labels = max(self._room_for_labels, *counts)
        self._check(labels, counts)
        with torch.autocast(local_embeddings.device.type, enabled=False):
            half = local_embeddings.dtype in (torch.float16, torch.bfloat16)
            raw = GatherRows.apply(local_embeddings.float() if half else local_embeddings, counts)
            start = sum(counts[: rank()])
            return self._global_loss(raw, labels, slice(start, start + sizes[0]))

    def _global_loss(self, raw: Tensor, labels: Tensor, of_this_rank: slice) -> Tensor:
        step = self._step(labels, raw)
        update = self._class_update(step)
        raw = raw if update is None else update.enter(raw)
        # norm² overflows above sqrt(max): such a row has no direction, its cosines are 0, and inf · 0 is NaN.
        norms = raw.norm(dim=1).clamp_max(torch.finfo(raw.dtype).max ** 0.5)
        embeddings = normalise(raw) if self.loss.normalize else raw
        to_shard = CopyToShards.apply(embeddings)
        if update is not None:
            compared = fused_stream(to_shard, norms, self.weight, step, update)
        else:
            engine = dense if self.engine == "dense" else stream
            compared = engine(to_shard, norms, step.shard.active_rows(self.weight), step)

        loss = step.loss.per_sample(compared.own_cos, compared.lse_others, norms).mean()
        own = own_cosines(compared.own_cos.detach(), norms.detach(), self.weight.detach(), step)
        seen = {"own_cosine": own, "norm": norms.detach()}
        self.last_samples = {name: values[of_this_rank] for name, values in seen.items()}
        self.last_means = {name: values.mean() for name, values in seen.items()}
        self.last_terms = {**self.loss.terms(), "ce": loss.detach()}
        if self.regularizers:
            directions = embeddings if self.loss.normalize else normalise(raw)
            raw = torch.where(inverse_norm(raw) > 0, raw, 0)
            seen = compared.own_centres, compared.max_cos
            batch = Batch(raw, directions, norms, labels.to(raw.device, non_blocking=True), *seen)
            for name, term in self._regularizer_terms(batch, step.shard, update):
                self.last_terms[name] = term.detach()
                loss = loss + term
        if update is not None:
            update.loss = loss.detach()
        self.micro_batch += self._is_training_step
        return loss

    def _class_update(self, step: Step) -> ClassUpdate | None:
        """What moves the classes in this step's backward pass; None where nothing does."""
        if self.head_update != "fused" or not self._is_training_step or not self.weight.requires_grad:
            return None
        if self.update_rule is None:
            raise ValueError("head_update='fused' needs an update_rule: see training/head_update.py")
        _, *others = self.class_parameters().values()
        return ClassUpdate(self.update_rule, step, self.weight, [p for p in others if p.requires_grad])

    def _regularizer_terms(
        self, batch: Batch, shard: Shard, update: ClassUpdate | None
    ) -> Iterator[tuple[str, Tensor]]:
        """Each regulariser's term, after its memories and its rows of this batch have moved on."""
        for name, regularizer in zip(self.term_names, self.regularizers):
            table = regularizer.class_rows
            own_rows = None if table is None else (update or shard).own_rows(table)
            batch = batch._replace(own_rows=own_rows)
            if self._is_training_step:
                regularizer.update_state(batch.detached())
                if table is not None and not table.requires_grad:
                    if self._replaced_rows is not None:
                        self._replaced_rows.append((shard, table, batch.own_rows.detach()))
                    shard.scatter_own(table, regularizer.new_rows(batch.detached()))
            yield name, regularizer(batch)

    @property
    def _is_training_step(self) -> bool:
        """Whether running statistics and memories move on."""
        return self.training and torch.is_grad_enabled() and not self._only_input_gradient

    def _check(self, labels: Tensor, counts: list[int]) -> None:
        if not len(labels):
            raise ValueError("the global batch is empty: there is no sample on any rank")
        bad = ((labels < 0) | (labels >= self.num_classes)).nonzero()
        if len(bad):
            sample = int(bad[0])
            at_rank = int(np.searchsorted(np.cumsum(counts), sample, side="right"))
            raise ValueError(
                f"label {int(labels[sample])} of sample {sample - sum(counts[:at_rank])} on rank {at_rank} "
                f"is outside [0, {self.num_classes}), num_classes={self.num_classes}"
            )

    def _step(self, labels: Tensor, raw: Tensor) -> Step:
        """What the engine gets for this step."""
        sample = self._sample if self.sample_rate < 1 else None
        classes = range(self.class_start, self.class_start + self.num_local)
        frozen = self._only_input_gradient or self.head_update == "fused"
        shard = Shard.of_batch(labels, classes, raw.device, sample, frozen)
        return Step(
            StepLoss(self.loss, self._draw(raw), self._is_training_step),
            shard,
            PRECISIONS[self.precision],
            self.chunk_size or default_chunk_size(len(raw), raw.device),
            needs_max_cos=any(part.needs_max_cos for part in self.regularizers),
            needs_own_centres=any(part.needs_own_centres for part in self.regularizers),
            kernels=self.engine == "stream" and use_kernels(self.kernels, self.loss, raw, self.precision),
            filter_gradients=self.filter_gradients,
        )

    def _draw(self, raw: Tensor) -> dict[str, Tensor]:
        """The random numbers of the loss in this step, equal on every rank."""
        seed = seed_of(self.seed, self.step, self.micro_batch, DRAW_STREAM)
        draws = self.loss.draw(torch.Generator().manual_seed(seed), len(raw))
        for name, values in draws.items():
            if values.shape != (len(raw),):
                raise ValueError(
                    f"{type(self.loss).__name__}.draw: {name!r} has shape {tuple(values.shape)}, allowed is "
                    f"one number a sample, {(len(raw),)}"
                )
        dtypes = {name: raw.dtype if v.is_floating_point() else v.dtype for name, v in draws.items()}
        return {name: v.to(raw.device, dtypes[name], non_blocking=True) for name, v in draws.items()}

    def _sample(self, own_classes: Tensor, num_own: int) -> Tensor:
        """Local class ids of this step, ascending: the batch's own classes, filled up with random others."""
        generator = torch.Generator(own_classes.device)
        generator.manual_seed(seed_of(self.seed, rank(), self.num_samplings, SAMPLE_STREAM))
        self.num_samplings += not self._only_input_gradient
        priority = torch.rand(self.num_local, device=own_classes.device, generator=generator)
        priority[own_classes] = 2.0
        num_sampled = max(int(self.sample_rate * self.num_local), num_own)
        sampled = priority.topk(num_sampled).indices.sort().values
        self.sampled = sampled + self.class_start
        return sampled
