# One word per chore, the same on a laptop and in CI. Each verb installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install fix check test serve bench microbench clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Intarsia needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.serve

install: $(VENV)/.dev

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

serve: export INTARSIA_PUBLISH_DIR ?= examples/adapters
serve: $(VENV)/.serve
	$(BIN)/intarsia serve

bench: $(VENV)/.dev
	$(BIN)/python -m loadtests.bench

microbench: $(VENV)/.dev
	$(BIN)/python -m loadtests.micro.cpu_kernels
	$(BIN)/python -m loadtests.micro.decode_step
	$(BIN)/python -m loadtests.micro.merging
	$(BIN)/python -m loadtests.micro.plan
	$(BIN)/python -m loadtests.micro.switching

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
