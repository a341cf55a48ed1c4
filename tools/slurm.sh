#!/usr/bin/env bash
# Train on a SLURM cluster: one torchrun on each machine; a job that is stopped goes back into the queue and goes on.
#
#     sbatch --nodes=2 --gpus-per-node=8 tools/slurm.sh configs/ms1mv3_r100 output=/shared/runs/first
#     sbatch ... tools/slurm.sh configs/ms1mv3_r100 output=/shared/runs/first num_epoch=25    # the arguments of train_v2.py
#
# `output` has to be given, in a folder that all machines share. Submit from the repository, which they share too.
# The environment of Python is .venv there, or $LQFACE_PYTHON. See docs/clusters.md.
#SBATCH --job-name=lqface
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=lqface-%j.log
# Ten minutes before the time is over, to the processes of each step: room for a training step and a save.
#SBATCH --signal=USR1@600
set -euo pipefail

output=
for argument in "$@"; do
    case "$argument" in
        output=?*) output=${argument#output=} ;;
        resume=*) echo "error: $argument: this script says resume=auto itself" >&2; exit 2 ;;
    esac
done
if [ -z "$output" ]; then
    echo "usage: sbatch [--nodes=N ...] tools/slurm.sh CONFIG output=SHARED_FOLDER [key=value ...]" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"
test -f train_v2.py || { echo "error: $PWD is not the repository: submit from there" >&2; exit 2; }
python=${LQFACE_PYTHON:-.venv/bin/python}

# The first machine is where the ranks meet. A port that follows from the job: two jobs may share a machine.
machines=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # not into head, which would end scontrol by SIGPIPE
first=${machines%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 10000))

# What lies here is of an earlier start: after this one it has to mean this one.
rm -f "$output/PREEMPTED"

# Since SLURM 22.05 srun does not take this over from sbatch.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"

# In the background, so that bash runs the trap at once. The ranks get the signal from SLURM, which sends it to every
# process of the step, or from torchrun, which hands on what is named here.
trap 'signalled=1' TERM USR1
srun --kill-on-bad-exit=1 "$python" -m torch.distributed.run \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv_backend=c10d --rdzv_endpoint="$first:$port" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=300 \
    train_v2.py "$@" resume=auto &
step=$!
while :; do
    signalled="" code=0
    wait "$step" || code=$?
    [ -n "$signalled" ] || break # else a signal to this shell has ended the wait, not the step
done

# A run that was asked to stop says so by exit code 75 or, as torchrun hides codes, by the file PREEMPTED.
if [ "$code" -eq 75 ] || [ -f "$output/PREEMPTED" ]; then
    echo "stopped with a checkpoint: back into the queue"
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
