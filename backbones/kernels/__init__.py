"""BatchNorm of the training step with what stands beside it (PReLU, a shortcut) in GPU kernels, in Triton.

    choice.py         when they are used
    function.py       the function for autograd
    launch.py         each kernel as a call, and the sizes
    statistics.py     kernels: the passes that reduce over images and places
    normalise.py      kernels: the passes that write a tensor

Only choice.py may be imported where Triton is not installed. docs/performance.md counts the passes.
"""
