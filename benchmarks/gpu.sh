#!/usr/bin/env bash
# Everything that is claimed of a GPU, in under ten minutes: two short trainings and the benchmarks.
#
#     bash benchmarks/gpu.sh [FOLDER]        # also keeps the output there, one file a measurement
#
# SMALL=1 runs the same commands at sizes that a CPU finishes in two minutes, to see that they run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-$(mktemp -d)}
python=${PYTHON:-python3}
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python}
mkdir -p "$folder"

if [ -n "${SMALL:-}" ]; then
    train=(network=mbf network_args.scale=1 "network_args.blocks=[1,1,1,1]" batch_size=8 num_classes=200 num_image=400 num_steps=4)
    head=(--classes 2000 --batch 32 --dim 64 --repeat 1)
    step=(--networks mbf --batch 4 --classes 100 --steps 1)
    aroface=(--networks mbf --batch 4 --classes 100 --repeat 1)
    precisions=(fp32 bf16)
else
    train=(network=r100 batch_size=128 num_steps=60)
    head=(--classes 100000 500000 2000000 --batch 1024 --repeat 5)
    step=(--networks mbf r50 r100 vit_b --batch 128 --classes 100000 --steps 10)
    aroface=(--networks r50 r100 --batch 128 --classes 100000 --repeat 10)
    precisions=(fp32 bf16 fp16)
fi

failed=0
run() {  # run NAME SECONDS COMMAND...: its output to the screen and to a file; a failure does not stop the rest
    local name=$1 seconds=$2
    shift 2
    echo "== $name: $*"
    timeout "$seconds" "$@" 2>&1 | tee "$folder/$name.txt"
    local code=${PIPESTATUS[0]}
    [ "$code" -eq 0 ] || { echo "== $name ended with code $code"; failed=1; }
}

for precision in "${precisions[@]:1}"; do
    run "train_$precision" 75 "$python" train_v2.py configs/synthetic precision="$precision" frequent=2 \
        output="$folder/run_$precision" "${train[@]}"
done
for precision in "${precisions[@]:0:2}"; do
    run "head_$precision" 100 "$python" benchmarks/head.py --precision "$precision" "${head[@]}"
done
run step 180 "$python" benchmarks/step.py --precisions "${precisions[@]}" "${step[@]}"
run aroface 60 "$python" benchmarks/aroface.py --precisions bf16 "${aroface[@]}"
exit $failed
