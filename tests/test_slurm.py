"""tools/slurm.sh, with stand-ins for SLURM: what it starts, and when the job goes back into the queue."""

import os
import signal
import subprocess
import time

import pytest
from torch.distributed.run import parse_args

from utils.run_info import ROOT

# Stand-ins: the step writes down its command line, leaves what a run leaves, and ends with a code.
SCONTROL = """#!/bin/sh
case "$1" in show) echo gpu07; sleep 0.1; echo gpu08 ;; *) echo "$@" > scontrol.txt ;; esac
"""
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > srun.txt
echo "${SRUN_CPUS_PER_TASK:-}" > cpus.txt
echo $$ > srun.pid
{step}
"""
JOB = dict(
    SLURM_JOB_ID="123456", SLURM_JOB_NODELIST="gpu[07-08]", SLURM_JOB_NUM_NODES="2", SLURM_GPUS_ON_NODE="8"
)


@pytest.fixture
def start(tmp_path):
    """Starts the script as sbatch does, from a folder that looks like the repository."""
    (tmp_path / "train_v2.py").touch()
    (tmp_path / "run").mkdir()

    def start(step: str, *arguments: str, **environment: str) -> subprocess.Popen:
        for name, text in (("srun", SRUN.replace("{step}", step)), ("scontrol", SCONTROL)):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        job = {**JOB, "PATH": path, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "16"}
        return subprocess.Popen(
            ["bash", ROOT / "tools" / "slurm.sh", *arguments],
            env=job | environment,
            cwd="/",  # SLURM runs a copy from a folder of its own
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def ends(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate(timeout=20)
    return process.returncode, output


RUN = ("configs/demo", "output=run", "val_targets=[a, b]")


def test_each_machine_starts_torchrun_which_understands_its_options(start, tmp_path):
    assert ends(start("exit 0", *RUN)) == (0, "")
    words = (tmp_path / "srun.txt").read_text().splitlines()
    assert words[:4] == ["--kill-on-bad-exit=1", ".venv/bin/python", "-m", "torch.distributed.run"]
    understood = parse_args(words[4:])
    assert (understood.nnodes, understood.nproc_per_node) == ("2", "8")
    assert understood.rdzv_endpoint == "gpu07:23456"
    assert "SIGUSR1" in understood.signals_to_handle
    assert [understood.training_script, *understood.training_script_args] == [
        "train_v2.py",
        *RUN,
        "resume=auto",
    ]
    assert (tmp_path / "cpus.txt").read_text() == "16\n"
    assert not (tmp_path / "scontrol.txt").exists()


@pytest.mark.parametrize(
    ("step", "code", "requeued"),
    [
        ("touch run/PREEMPTED; exit 1", 0, True),  # torchrun, whatever its ranks return
        ("exit 75", 0, True),
        ("exit 1", 1, False),
        ("exit 0", 0, False),
    ],
)
def test_a_job_whose_run_was_stopped_goes_back_into_the_queue(step, code, requeued, start, tmp_path):
    assert ends(start(step, *RUN))[0] == code
    command = tmp_path / "scontrol.txt"
    assert (command.read_text() if command.exists() else None) == ("requeue 123456\n" if requeued else None)


def test_a_failed_start_after_a_stop_does_not_go_round_for_ever(start, tmp_path):
    (tmp_path / "run" / "PREEMPTED").touch()
    assert ends(start("exit 2", *RUN))[0] == 2
    assert not (tmp_path / "scontrol.txt").exists()


def test_a_signal_to_the_script_waits_for_the_step(start, tmp_path):
    process = start("trap 'touch run/PREEMPTED; exit 1' USR1; touch ready; while :; do sleep .1; done", *RUN)
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)  # to the batch script alone: nothing ends yet
    time.sleep(0.3)
    assert process.poll() is None
    os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGUSR1)
    assert ends(process)[0] == 0
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 123456\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["configs/demo"], "output=SHARED_FOLDER"),
        (["configs/demo", "output=run", "resume=true"], "says resume=auto itself"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(arguments, words, start, tmp_path):
    code, output = ends(start("exit 0", *arguments))
    assert code == 2
    assert words in output
    assert not (tmp_path / "srun.txt").exists()


def test_the_options_of_sbatch_stand_where_sbatch_reads_them():
    lines = (ROOT / "tools" / "slurm.sh").read_text().splitlines()
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(options) < first_command
    assert "#SBATCH --requeue" in lines
