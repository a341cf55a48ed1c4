# Everything that lqface runs on, for one GPU or several, or a CPU. Built and run: see docs/clusters.md.
#
#     docker build -t lqface .
#     docker run --rm --gpus all --ipc=host -v /data:/data lqface torchrun --nproc_per_node=4 train_v2.py ...
FROM python:3.11-slim

# Triton compiles a few lines of C when a GPU kernel is first used. git is not needed: run.json then has no commit.
# Debian has one version of each, which changes with its fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /lqface

# The tested packages with PyTorch's CUDA build, each file checked by its hash. Another build of PyTorch:
#     --build-arg PACKAGES="--extra-index-url=URL -r requirements.txt -c constraints.txt"
ARG PACKAGES="--require-hashes -r requirements.lock"
COPY requirements.txt requirements.lock constraints.txt ./
# PACKAGES has no quotes, as each of its words is an option; the versions are in the files that it names.
# hadolint ignore=SC2086,DL3013
RUN pip install --no-cache-dir ${PACKAGES}

COPY . .

CMD ["python", "train_v2.py", "--help"]
