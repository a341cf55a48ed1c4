"""`stream` in GPU kernels: the passes over the classes in Triton, in place of PyTorch's operations.

    choice.py         when they are used
    engine.py         the engine: as stream.py, with the passes of spans.py
    spans.py          the two passes, span by span, and the memory between them
    launch.py         each kernel as a call
    products.py       kernels: log-sum-exp, gradient blocks, row statistics
    gradients.py      kernels: the gradients of embeddings and centres
    tiles.py          the sizes, by kind of card

Only choice.py may be imported where Triton is not installed. The logits of other classes as Triton functions
are in losses/kernel_logits.py. docs/classifier.md has the design.
"""
