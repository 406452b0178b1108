# Two commands do everything on a fresh machine with Python 3.11: `make compare` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
STUDY ?= quick
# Every version that a set-up installs, written by `make lock`. `make test LOCK=` takes the newest instead, unlocked.
LOCK ?= constraints.txt
LOCKED_PYTHON := 3.11

VENV := .venv
BIN := $(VENV)/bin
PEER := .venv-peer
INSTALLED := $(VENV)/.installed
LOCKED := $(if $(LOCK),--constraint $(LOCK))

.PHONY: compare test test-all test-device lint format bench bench-device lock matrix clean

compare: $(INSTALLED)
	$(BIN)/tinyengram compare $(STUDY)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadgroup

test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadgroup

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

# On whatever accelerator is there, with nothing installed by us: any Python that has torch, transformers, PEFT and
# pytest will do (docs/devices.md). `make bench-device BENCH="--out FILE"` writes the table.
DEVICE_PYTHON ?= $(or $(wildcard $(BIN)/python),$(PYTHON))
test-device:
	PYTHONPATH=src "$(DEVICE_PYTHON)" -m pytest -m device -rs tests/device

BENCH ?=
bench-device:
	PYTHONPATH=src "$(DEVICE_PYTHON)" benchmarks/device.py $(BENCH)

# The newest versions that pyproject.toml allows, written down; run `make matrix` before committing them.
lock:
	"$(PYTHON)" scripts/lock.py constraints.txt

# Memory, scoring and a whole small study on the oldest, the locked and the newest versions; prints "works with".
VERSIONS ?= oldest locked newest
matrix:
	"$(PYTHON)" scripts/matrix.py $(VERSIONS)

$(INSTALLED): pyproject.toml $(LOCK) scripts/check_python.py
	@test -n "$(PYTHON)" || { echo "No Python was found: install Python $(LOCKED_PYTHON), or name one: make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" scripts/check_python.py $(LOCKED_PYTHON) "$(LOCK)"
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(LOCKED) hatchling editables
	$(BIN)/python -m pip install --quiet $(LOCKED) --no-build-isolation --editable ".[dev]"
	touch $@

# The harness to compare with has requirements of its own, so it gets an environment of its own.
$(PEER)/.installed: pyproject.toml $(LOCK)
	test -x $(PEER)/bin/python || "$(PYTHON)" -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet $(LOCKED) torch
	$(PEER)/bin/python -m pip install --quiet --editable . "lm-eval==0.4.13"
	touch $@

clean:
	rm -rf $(VENV) $(PEER) .venv-matrix .pytest_cache .mypy_cache .ruff_cache .hypothesis
