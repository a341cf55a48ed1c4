"""Processes that a launcher starts side by side without telling torch of one another."""

import logging
import os

from utils.logging import LOGGER_NAME

# Launcher -> the variables in which it tells a process its number, and how many its command started.
LAUNCHERS = {
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE"),
}
REMEDY = (
    "start torchrun once on each machine (srun --ntasks-per-node=1 torchrun --nnodes=... --nproc_per_node="
    "...), or set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each task"
)


def refuse_lone_task() -> None:
    """Called where there is no RANK, so that this process would work alone: an error if it has siblings.

    In a batch script SLURM_NTASKS may be above 1 while this is the only process: that is only a warning.

    Raises:
        ValueError: it is one of several tasks of srun, mpirun or mpiexec.
    """
    for launcher, (number, count) in LAUNCHERS.items():
        task, num_tasks = _integer(number, 0), _integer(count, 1)
        if task > 0 or num_tasks > 1:
            raise ValueError(
                f"{launcher} started several processes ({number}={task}, {count}={num_tasks}), but without "
                f"RANK in its environment each would work alone: {REMEDY}; for independent runs unset "
                f"{number} and {count}"
            )
    if _integer("SLURM_NTASKS", 1) > 1:
        logging.getLogger(LOGGER_NAME).warning(
            f"SLURM has {os.environ['SLURM_NTASKS']} tasks for this job, but this process works alone; "
            f"to use them {REMEDY}"
        )


def _integer(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default
