# lqface: `make demo` trains and verifies a face model, `make test` runs every check. Both set everything up first.

PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_ARGS ?=
# Number of processes that train the demo. Empty: one on a GPU; on a CPU two, or one where there is one core.
NPROC ?=

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
TORCHRUN := $(PY) -m torch.distributed.run --standalone
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
TEST_PROCESSES ?= $(shell echo $$(($(CORES) < 4 ? $(CORES) : 4)))

.PHONY: help demo test faults fuzz lock lint smoke bench test-export test-mxnet setup clean
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo 'PYTHON=python3.12 chooses the Python, NPROC=4 the processes of the demo, PYTEST_ARGS="-k margin" the tests;'
	@echo 'PIP_FLAGS="..." is handed to pip, to choose another build of PyTorch for example.'

# glibc keeps freed memory: to return pages to the system and get them again costs a tenth of the images a second.
demo smoke bench: export MALLOC_MMAP_MAX_ = 0
demo smoke bench: export MALLOC_TRIM_THRESHOLD_ = 100000000000
demo: RUN := work_dirs/demo
demo: DATA := data/demo
# Half of the default of make_demo.py: enough for 90 % on demo_hq, and slow cores train in minutes.
demo: PEOPLE := --identities 240
demo: $(READY)  ## draw faces of people who do not exist, train on them, run every protocol on others
	$(PY) tools/make_demo.py --out $(DATA) $(PEOPLE)
	@rm -rf $(RUN)  # of an earlier demo: train_v2.py does not overwrite a finished run
	@ranks="$(NPROC)"; \
	if [ -z "$$ranks" ]; then \
	    ranks=$$($(PY) -c "import torch; print(1 if torch.cuda.is_available() else min(2, $(CORES)))"); \
	fi; \
	threads=$$(($(CORES) / ranks)); \
	set -x; OMP_NUM_THREADS=$$((threads > 0 ? threads : 1)) \
	    $(TORCHRUN) --nproc_per_node=$$ranks train_v2.py configs/demo rec=$(DATA) output=$(RUN)
	$(PY) tools/evaluate_demo.py --model $(RUN)/model.pt --data $(DATA)
	@echo
	@echo 'The demo is done. In $(RUN) are model.pt, curves.png, metrics.jsonl, TensorBoard files and a folder'
	@echo 'of results, pictures and a page for each protocol: model.pt.verification/report.html, model.pt.ijb/...'
	@echo '$(DATA)/contact_sheet.png shows the faces.'

# Test files are shared out to processes of one thread each: what a test finds does not depend on their number.
test: export OMP_NUM_THREADS = 1
test: lint smoke  ## lint, smoke run, all tests
	$(PY) -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --durations 10 $(PYTEST_ARGS)

faults: export OMP_NUM_THREADS = 1
faults: export LQFACE_FAULTS = all
faults: $(READY)  ## kill, stop and break training at random moments, some fifty times (a quarter of an hour)
	$(PY) -m pytest -o faulthandler_timeout=1800 tests/test_faults.py tests/test_preemption.py tests/test_torchrun.py tests/test_watchdog.py

# Two minutes for each of thirteen formats; other inputs with FUZZ_ARGS="--seed 7", longer ones with "--seconds 3600".
FUZZ_ARGS ?= --seconds 120
fuzz: export OMP_NUM_THREADS = 1
fuzz: $(READY)  ## damaged and hostile files of every format and command lines: none may hurt
	$(PY) tests/fuzz/run.py $(FUZZ_ARGS)
	@if $(PY) -c 'import atheris' 2>/dev/null; then $(PY) tests/fuzz/guided.py --seconds 60; \
	else echo 'atheris is not installed: no inputs that are guided by coverage (pip install atheris)'; fi

lock: $(READY)  ## requirements.lock anew: every package that pip chooses, with the hashes of its files
	$(PY) tools/lock.py --out requirements.lock

lint: $(READY)  ## style and likely faults
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# Always on the CPU: two ranks cannot share one GPU.
smoke: export CUDA_VISIBLE_DEVICES =
smoke: export OMP_NUM_THREADS = 1
smoke: RUN := work_dirs/smoke
smoke: DATA := data/smoke
smoke: $(READY)  ## the demo at reduced size, on two processes: does the whole chain run?
	$(PY) tools/make_demo.py --out $(DATA) --identities 40 --images-per-identity 8 --pairs 100
	@rm -rf $(RUN)
	$(TORCHRUN) --nproc_per_node=2 train_v2.py configs/demo rec=$(DATA) output=$(RUN) \
	    num_steps=10 batch_size=16 frequent=5
	$(PY) tools/evaluate_demo.py --model $(RUN)/model.pt --data $(DATA) --quick
	@for file in model.pt curves.png report.html metrics.jsonl config.json run.json; do \
	    test -s $(RUN)/$$file || { echo "error: the smoke run left no $$file" >&2; exit 1; }; \
	done

bench: $(READY)  ## time and memory: classifier, training steps, ARoFace, evaluation, loader
	$(PY) benchmarks/head.py
	$(PY) benchmarks/step.py
	$(PY) benchmarks/aroface.py
	$(PY) benchmarks/evaluation.py
	$(PY) benchmarks/loader.py

test-export: $(READY)  ## every network, at its full size, as ONNX: half an hour and 16 GB of memory
	$(PY) -m pytest tests/all_exports.py $(PYTEST_ARGS)

test-mxnet: $(READY)  ## RecordIO against MXNet itself, in an environment of its own
	bash tests/mxnet/run.sh

setup: $(READY)  ## only .venv and its packages
$(READY): requirements.txt constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	    echo "error: there is no $(PYTHON). Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: $$($(PYTHON) --version 2>&1) is too old, Python 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "error: $(PYTHON) comes without venv. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing requirements.txt into $(VENV) (once; PyTorch is some GB)"
	@$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -r requirements.txt -c constraints.txt
	@touch $@

clean:  ## remove all that make made: .venv, demo and smoke run with their data, caches
	rm -rf $(VENV) .venv-mxnet data/demo data/smoke work_dirs/demo work_dirs/smoke
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
