# `make demo` and `make test` set up everything they need: a .venv, the pinned packages, and Triptych itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Small tensor steps on a shared machine: let idle OpenMP threads sleep, not spin.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo test test-long lint types check bench bench-long clean

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

setup: $(VENV)/.installed   ## make .venv with Triptych, its tests and its linters

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(f"Triptych wants Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Run: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text,vision,audio,search,report,track,serve,index,postgres,test,lint]'
	@touch $@

demo: setup      ## build the built-in shop, train three models on it, write demo/index.html
	$(BIN)/triptych demo --out demo --overwrite

test: setup      ## the default tests: some ten minutes on two cores, no network, no GPU
	$(BIN)/pytest -n 2

test-long: setup ## the long forms: many seeds, many examples
	$(BIN)/pytest -n 2 -m long

lint: setup      ## style and the arrows between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup     ## mypy, strict on src/
	$(BIN)/mypy

check: test lint types   ## everything a change must pass

bench: setup     ## the speed ratios of docs/results.md, held against the kept ones (minutes)
	$(BIN)/python -m benchmarks --against

bench-long: setup   ## all models, SAND's variants, growth, memory at the size of Electronics (hours)
	$(BIN)/python -m benchmarks models sand growth memory --json bench-long.json

clean:           ## remove the virtual environment and what the demo wrote
	rm -rf $(VENV) demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
