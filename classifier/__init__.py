"""The engines of PartialFC: one training step over the classes that a rank holds.

Only partial_fc.py uses them. One step goes through these files:

    partial_fc.py     gathers the global batch and asks `Shard.of_batch` which classes take part in the step
    step.py           `Step`, all that an engine gets; `Comparison`, all that it returns
    step_loss.py      the loss in this step: its random draws, row statistics and parameters
    centres.py        what the class centres start from
    shard.py          which of this rank's classes take part, and which samples belong to them
    own_classes.py    each sample's own class, for `stream`
    class_chunks.py   the classes a chunk at a time, for `stream`
    log_sum.py        the log-sum-exp over the others, and what the ranks tell each other, for `stream`
    dense.py          the reference engine: the logit matrix of this rank, autograd does the rest
    stream.py         the engine for large class counts: chunks of classes, forward and backward
    fused.py          `stream` whose classes move in the backward pass
    class_update.py   that update, when the step is known to be finite
    other_logits.py   the gradient of the other classes' logits, for `stream`
    kept_products.py  where `stream` keeps its products between the two passes
    products.py       matrix products in bf16 and fp16
    kernels/          `stream` in GPU kernels, where they are asked for

docs/classifier.md has the order of calls, the formulas, and what crosses the network.
"""
