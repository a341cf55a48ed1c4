"""Settings shared by all tests."""

import os

# Before torch is imported: the tests are of the CPU and of several ranks, also on a machine with one GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Before triton is imported, which happens where a test asks for the GPU kernels: they run on the CPU then.
os.environ["TRITON_INTERPRET"] = "1"

# A compiler in this process, not a pool of processes that outlive what they were for.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

# The same examples on every run: a red CI means a change of the code, not of luck. Speed is no claim here.
settings.register_profile("lqface", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("lqface")


# The long files, longest first: what begins last keeps one process busy when all others are done.
LONG = "torchrun faults partial_fc_ranks fine_tuning train make_demo compiled watchdog preemption "
LONG += "sync_batch_norm verification export kernels eval_robustness partial_fc_random"


def pytest_configure(config):
    """pytest-xdist hands out the files in the order below, not by their number of tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(LONG.split())}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))  # the others stay in their order


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Each test, with the fixtures that it makes, draws the same numbers on every run and in every order."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def compiler_s_files(tmp_path_factory):
    """torch.compile keeps what it compiles; here that is with the other files of a run of the tests."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))
