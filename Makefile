# Two commands on a fresh machine: `make demo` and `make test`. `make help` lists all.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo words-demo test drills long-drills test-gpu check lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

# What pip cannot install is checked first and named when it is missing.
need-tools:
	@missing=""; \
	for tool in git make g++; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if ! command -v $(PYTHON) >/dev/null; then missing="$$missing python3.11"; else \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || missing="$$missing python3.11"; \
	  $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || missing="$$missing python3.11-venv"; \
	  $(PYTHON) -c 'import os, sysconfig, sys; sys.exit(not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
	    || missing="$$missing python3.11-dev"; fi; \
	if [ -n "$$missing" ]; then \
	  echo "error: missing:$$missing; on Debian or Ubuntu: apt-get install$$missing"; exit 1; fi
.PHONY: need-tools

# torch goes first: its version must be settled before anything asks for "torch". The last line
# compiles DeepSpeed's shared-memory collective once, so that no run waits for it.
$(STAMP): requirements.lock pyproject.toml
	@$(MAKE) --no-print-directory need-tools
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -m1 '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@# A torch for CUDA brings the triton it needs; elsewhere tests interpret and compile with this one.
	@$(BIN)/python -c 'import triton' 2>/dev/null \
	  || $(BIN)/pip install --quiet --disable-pip-version-check triton==3.6.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m ndt3_dist.engines.compile_ops
	@touch $@

setup: $(STAMP)  ## make .venv with the locked versions

demo: $(STAMP)  ## the whole path on recordings it makes, or on RECORDINGS=file.nwb BIN_MS=50
	@$(BIN)/python launch/demo.py $(if $(RECORDINGS),--recordings "$(RECORDINGS)") $(if $(BIN_MS),--bin-ms $(BIN_MS)) $(if $(COVARIATES),--covariates $(COVARIATES)) $(if $(FULL),--full)

words-demo: $(STAMP)  ## words from two simulated subjects: a page and pictures, in under two minutes
	@$(BIN)/python launch/words.py demo runs/words_demo --workers 0

# What they see depends on who is faster, a rank or its launcher: alone.
ALONE := $(addprefix tests/integration/test_,stopping.py watch.py)

test: $(STAMP)  ## the tests, about ten minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=10 tests/unit tests/golden
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=10 tests/integration $(ALONE:%=--ignore=%)
	$(BIN)/python -m pytest -q --durations=10 $(ALONE)

drills: $(STAMP)  ## short forms of kills, lost hosts and packed 350M rows; on a GPU its kernels too
	$(BIN)/python -m pytest -q tests/drills tests/gpu

long-drills: $(STAMP)  ## their long forms (350M parameters: 6 GB of memory; an hour)
	$(BIN)/python -m pytest -q -m drill

test-gpu: $(STAMP)  ## on a GPU: kernels, goldens, speed, resume in benchmarks/results/gpu_DATE.txt; under nine minutes
	$(BIN)/python benchmarks/gpu.py --minutes 8.5

check: $(STAMP)  ## lint, format, types and layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/unit/test_layering.py

lock: $(STAMP)  ## write requirements.lock anew from what is installed
	@freeze="$(BIN)/pip freeze --all --exclude-editable --exclude pip --exclude ndt3_dist --exclude triton"; \
	{ echo "# Locked versions, frozen from a CPU installation by 'make lock'; torch comes first. On CUDA torch"; \
	  echo "# brings its own nvidia-* and triton packages, pinned by torch's version."; \
	  $$freeze | sed 's/+cpu//' | grep '^torch=='; $$freeze | grep -v '^torch=='; } > requirements.lock.tmp
	@mv requirements.lock.tmp requirements.lock

clean:  ## remove what the demo made (runs/demo, corpora/demo)
	rm -rf runs/demo corpora/demo
