# Two commands do everything on a fresh machine with Python 3.11: `make compare` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Pinned so that a set-up is the same every time; the package itself takes torch>=2.6.
TORCH ?= torch==2.13.0
STUDY ?= quick

VENV := .venv
BIN := $(VENV)/bin
PEER := .venv-peer
INSTALLED := $(VENV)/.installed

.PHONY: compare test test-all lint format bench clean

compare: $(INSTALLED)
	$(BIN)/tinyengram compare $(STUDY)

test: lint
	$(BIN)/python -m pytest -m "not slow"

test-all: lint
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) $(PEER)/.installed
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/scoring.py
	$(PEER)/bin/python benchmarks/harness.py --sample 10

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# The harness to compare with has requirements of its own, so it gets an environment of its own.
$(PEER)/.installed: pyproject.toml
	test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet "$(TORCH)"
	$(PEER)/bin/python -m pip install --quiet --editable . "lm-eval==0.4.13"
	touch $@

clean:
	rm -rf $(VENV) $(PEER) .pytest_cache .mypy_cache .ruff_cache .hypothesis
