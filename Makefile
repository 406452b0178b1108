# Two commands do everything on a fresh machine with Python 3.11: `make compare` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
STUDY ?= quick
# Every version that a set-up installs, written by `make lock`. `make test LOCK=` takes the newest instead, unlocked.
LOCK ?= constraints.txt
LOCKED_PYTHON := 3.11

VENV := .venv
BIN := $(VENV)/bin
PEER := .venv-peer
PEFT := .venv-peft
DOCS := .venv-docs
ZERO := .venv-zero
INSTALLED := $(VENV)/.installed
LOCKED := $(if $(LOCK),--constraint $(LOCK))

.PHONY: compare test test-all test-device test-zero lint format bench bench-serve bench-device peft-suite methods mutants lock matrix docs clean

compare: $(INSTALLED)
	$(BIN)/tinyengram compare $(STUDY)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --hypothesis-profile ci --numprocesses auto --dist loadgroup

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

# Tokens per second of `tinyengram serve` with 1, 4 and 16 streams beside plain `generate`.
bench-serve: $(INSTALLED)
	$(BIN)/python benchmarks/serving.py

# PEFT's own common tests with LoRA, Engram and Shadow; fails where Engram neither passes like LoRA nor refuses by name.
peft-suite: $(PEFT)/.installed
	OMP_NUM_THREADS=1 $(PEFT)/bin/python scripts/peft_suite.py

# Every method that PEFT knows on the embedded SmolLM2-135M: the table of docs/methods.md. METHODS="lora vera" tries these.
methods: $(INSTALLED)
	$(BIN)/python benchmarks/methods.py $(METHODS)

# Is every small change to the memory's code noticed by its tests? FILES="ngrams.py ..." and SAMPLE=n SEED=n restrict it.
mutants: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py $(FILES) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

# On whatever accelerator is there, with nothing installed by us: any Python that has torch, transformers, PEFT and
# pytest will do (docs/devices.md). `make bench-device BENCH="--out FILE"` writes the table.
DEVICE_PYTHON ?= $(or $(wildcard $(BIN)/python),$(PYTHON))
test-device:
	PYTHONPATH=src "$(DEVICE_PYTHON)" -m pytest -m device -rs tests/device

BENCH ?=
bench-device:
	PYTHONPATH=src "$(DEVICE_PYTHON)" benchmarks/device.py $(BENCH)

# DeepSpeed is built where it is installed and nothing else needs it, so it is kept apart.
test-zero: $(INSTALLED)
	test -d $(ZERO) || $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --target $(ZERO) deepspeed einops hjson msgpack ninja psutil py-cpuinfo
	PYTHONPATH=$(ZERO) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/training/test_together.py -k zero

# The documentation as a site, in site/; a link that leads nowhere fails it. Docstrings are read, not imported.
docs:
	test -x $(DOCS)/bin/mkdocs || ("$(PYTHON)" -m venv $(DOCS) && $(DOCS)/bin/python -m pip install --quiet "mkdocs-material>=9.8" "mkdocstrings-python>=2.0")
	$(DOCS)/bin/mkdocs build --strict

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

# PEFT's tests import diffusers, which nothing else here needs.
$(PEFT)/.installed: pyproject.toml $(LOCK)
	test -x $(PEFT)/bin/python || "$(PYTHON)" -m venv $(PEFT)
	$(PEFT)/bin/python -m pip install --quiet $(LOCKED) pytest "diffusers==0.42.1" --editable .
	touch $@

clean:
	rm -rf $(VENV) $(PEER) $(PEFT) $(DOCS) $(ZERO) .peft-suite .venv-matrix .pytest_cache .mypy_cache .ruff_cache .hypothesis .mutants site
