# Everything runs in a virtual environment of its own; `make VENV=dir PYTHON=python3.13 test` picks another.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
BROWSER := $(if $(and $(shell command -v chromium chromium-browser google-chrome),$(shell command -v chromedriver)),yes)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check format bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(VENV)/core ## train 64 restarts on digits and write results/digits/report/index.html
	$(BIN)/wspace run runs/digits.toml

test: $(VENV)/dev ## run every test (those of the report in a browser where Chromium and its driver are installed)
	@$(if $(BROWSER),,echo "no chromium and chromedriver here: the tests marked 'browser' are left out")
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not bench$(if $(BROWSER),, and not browser)"

test-fast: $(VENV)/dev ## run the tests that are neither slow nor need a browser
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not slow and not browser and not bench"

check: $(VENV)/dev ## lint, format and type checks, as pre-commit and CI run them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/dev ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/bench ## measure wspace against its peers (about an hour on two cores)
	$(BIN)/python -m pytest -m bench
	$(BIN)/python runs/benchmarks/engine.py --write
	$(BIN)/python runs/benchmarks/memory.py --write
	$(BIN)/python runs/benchmarks/alignment.py --write
	$(BIN)/python runs/benchmarks/landscape.py --write
	$(BIN)/python runs/benchmarks/projection.py --write
	$(BIN)/python runs/benchmarks/curvature.py --write

clean: ## remove the environment, results and caches
	rm -rf $(VENV) results build dist .pytest_cache .ruff_cache .hypothesis

$(VENV)/core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("wspace needs Python 3.11 or newer, $(PYTHON) is %d.%d: make PYTHON=python3.13 ..." % v)'
	@echo "installing wspace into $(VENV) (a minute or less)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) .
	@touch $@

$(VENV)/dev: $(VENV)/core
	@echo "installing the test tools into $(VENV)"
	@$(PIP) '.[dev]'
	@touch $@

$(VENV)/bench: $(VENV)/dev
	@echo "installing the benchmark's peers into $(VENV)"
	@$(PIP) '.[bench]'
	@touch $@
