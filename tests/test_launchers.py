"""Tasks of srun or mpirun that nothing binds into one run are refused, and told how to become one."""

import pytest

from utils import launchers
from utils.distributed import has_process_group, start_process_group, stop_process_group, world_size
from utils.launchers import LAUNCHERS


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    names = ["SLURM_NTASKS", "RANK", *(name for pair in LAUNCHERS.values() for name in pair)]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    yield
    stop_process_group()


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(("number", "count"), [("1", None), ("1", "2"), ("0", "2")])
def test_one_of_several_tasks_is_refused(monkeypatch, launcher, number, count):
    variables = LAUNCHERS[launcher]
    for name, value in zip(variables, (number, count)):
        if value is not None:
            monkeypatch.setenv(name, value)
    words = f"{launcher} started several .*: start torchrun .*, or set RANK.*; .* unset {variables[0]}"
    with pytest.raises(ValueError, match=words):
        start_process_group()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_only_task_is_not(monkeypatch, launcher):
    for name, value in zip(LAUNCHERS[launcher], ("0", "1")):
        monkeypatch.setenv(name, value)
    start_process_group()
    assert has_process_group()
    assert world_size() == 1


def test_a_batch_script_of_several_tasks_is_warned(monkeypatch, caplog):
    monkeypatch.setenv("SLURM_PROCID", "0")  # as in a batch script, outside of srun
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setattr(launchers, "LOGGER_NAME", "another")  # the project's does not reach pytest
    start_process_group()
    assert "SLURM has 4 tasks for this job, but this process works alone" in caplog.text
