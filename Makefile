# Every target works on a fresh clone: it first makes .venv from constraints.txt if that is missing or out of date.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1
export DIFFUSERS_VERBOSITY ?= error
export TRANSFORMERS_VERBOSITY ?= error

.PHONY: setup demo test slow lint format bench-cpu gpu clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: Python 3.11 or newer not found; pass PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/diffusers-ext demo --out out/demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not gpu and not slow"

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-cpu: $(STAMP)
	$(BIN)/python -m bench.guidance_cost --device cpu
	$(BIN)/python -m bench.growth
	$(BIN)/python -m bench.rectified_error

gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m bench.guidance_cost --device cuda
	$(BIN)/python -m bench.sparse_kernels --device cuda
	$(BIN)/python -m bench.growth --device cuda

clean:
	rm -rf $(VENV) out dist build .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
