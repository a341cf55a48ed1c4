"""Settings shared by all tests."""

import os

# Before torch is imported: the tests are of the CPU and of several ranks, also on a machine with one GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Before triton is imported, which happens where a test asks for the GPU kernels: they run on the CPU then.
os.environ["TRITON_INTERPRET"] = "1"

from hypothesis import settings

# The same examples on every run: a red CI means a change of the code, not of luck. Speed is no claim here.
settings.register_profile("lqface", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("lqface")
