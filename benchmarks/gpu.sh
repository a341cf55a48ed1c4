#!/usr/bin/env bash
# Everything that is claimed of a GPU, in under eight minutes, the most important rows first: each is a line of
# JSON as soon as it is measured, so that a run that is cut short still tells.
#
#     bash benchmarks/gpu.sh [FOLDER]        # also keeps the output there, one file a measurement
#
# SMALL=1 runs the same commands at sizes that a CPU finishes in a few minutes, to see that they run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
folder=${1:-$(mktemp -d)}
python=${PYTHON:-python3}
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python}
mkdir -p "$folder"

if [ -n "${SMALL:-}" ]; then
    export TRITON_INTERPRET=1 # the kernels, too, on a CPU
    limit=1500 slower=6
    check=(--precisions fp32 --losses cosface uniface --classes 60 --batch 20 --dims 20)
    kernels=(--precision fp32 --classes 200 --batch 32 --dim 32 --repeat 1)
    tiles=(--precision fp32 --kernels log_sum --classes 64 --batch 32 --dim 32 --repeat 1)
    train=(network=mbf network_args.scale=1 "network_args.blocks=[1,1,1,1]" batch_size=8 num_classes=200 num_image=400 num_steps=4)
    head=(--classes 2000 --batch 32 --dim 64 --repeat 1)
    step=(--networks mbf --batch 4 --classes 100 --steps 1)
    aroface=(--networks mbf --batch 4 --classes 100 --repeat 1)
    scaling=(--classes 200 400 600 --batch 4 --dim 16 --repeat 1 --parts shards classes identities)
    compiled=(--backbone-kernels --networks mbf --batch 4 --classes 100 --steps 1)
    norms=(--shapes 64:8 70:4 --batch 4 --repeat 1 --precisions fp32)
    precisions=(fp32 bf16)
else
    limit=470 slower=1
    check=(--precisions fp32 bf16)
    kernels=(--precision bf16 --classes 1000000 --batch 1024 --repeat 5)
    tiles=(--kernels log_sum embeddings centres)
    train=(network=r100 batch_size=128 num_steps=60)
    head=(--classes 100000 2000000 --batch 1024 --repeat 5)
    step=(--networks r50 r100 mbf vit_b --batch 128 --classes 100000 --steps 10)
    aroface=(--networks r50 r100 --batch 128 --classes 100000 --repeat 10)
    scaling=(--classes 100000 1000000 4000000 8000000 --precision bf16 --parts shards classes identities)
    compiled=(--backbone-kernels --networks r50 --batch 128 --classes 100000 --steps 10)
    norms=(--precisions bf16 fp32 --large)
    large_batch=(--networks r50 --batch 512 --classes 100000 --steps 10)
    precisions=(fp32 bf16 fp16)
fi

failed=0
run() {  # run NAME SECONDS COMMAND...: its output to the screen and to a file; a failure does not stop the rest
    local name=$1 seconds=$(($2 * slower))
    local left=$((limit - SECONDS))
    shift 2
    if [ "$left" -lt 10 ]; then
        echo "== $name: no time left"
        failed=1
        return
    fi
    echo "== $name: $*"
    timeout $((seconds < left ? seconds : left)) "$@" 2>&1 | tee "$folder/$name.txt"
    local code=${PIPESTATUS[0]}
    [ "$code" -eq 0 ] || { echo "== $name ended with code $code"; failed=1; }
}

run kernel_check 100 "$python" benchmarks/kernel_check.py "${check[@]}"
run kernels 90 "$python" benchmarks/head.py --methods stream kernels --losses cosface curricularface "${kernels[@]}"
[ -n "${SMALL:-}" ] || run kernel_check_million 40 "$python" benchmarks/kernel_check.py --losses --million
run batch_norm 60 "$python" benchmarks/batch_norm.py "${norms[@]}"
[ -n "${SMALL:-}" ] || run backbone_kernels 60 "$python" benchmarks/step.py --backbone-kernels --precisions bf16 \
    "${large_batch[@]}"
run train_bf16 60 "$python" train_v2.py configs/synthetic precision=bf16 frequent=2 \
    output="$folder/run_bf16" "${train[@]}"
run compiled 125 "$python" benchmarks/step.py --compile --precisions bf16 "${compiled[@]}"
run head_bf16 80 "$python" benchmarks/head.py --precision bf16 "${head[@]}"
run head_update 60 "$python" benchmarks/head.py --methods stream fused --optimizer sgd "${kernels[@]}"
run kernel_tiles 90 "$python" benchmarks/kernel_tiles.py "${tiles[@]}"
run step 100 "$python" benchmarks/step.py --precisions "${precisions[@]:1}" "${step[@]}"
run aroface 50 "$python" benchmarks/aroface.py --precisions bf16 "${aroface[@]}"
run aroface_compiled 110 "$python" benchmarks/aroface.py --compile --precisions bf16 "${aroface[@]:0:2}" "${aroface[@]: -6}"
run scaling 60 "$python" benchmarks/scaling.py "${scaling[@]}"
run head_fp32 80 "$python" benchmarks/head.py --precision fp32 "${head[@]}"
[ -n "${SMALL:-}" ] || run train_fp16 60 "$python" train_v2.py configs/synthetic precision=fp16 frequent=2 \
    output="$folder/run_fp16" "${train[@]}"
exit $failed
