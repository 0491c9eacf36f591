# Every target works on a fresh clone: it first makes .venv from constraints.txt if that is missing or out of date.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
NEWEST := .venv-newest
STAMP := $(VENV)/.installed
JOBS ?= $(shell $(PYTHON) -c "import os; print(max(2, min(4, os.cpu_count() or 2)))")
export HF_HUB_OFFLINE ?= 1
export DIFFUSERS_VERBOSITY ?= error
export TRANSFORMERS_VERBOSITY ?= error

.PHONY: setup demo app test browser test-browser test-newest-torch test-settings slow soak lint format bench-cpu clean
.PHONY: gpu gpu-quick gpu-fit gpu-tests gpu-kernels gpu-blocks

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: Python 3.11 or newer not found; pass PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/diffusers-ext demo --out out/demo

app: $(STAMP)
	$(BIN)/diffusers-ext app

# The files of tests are shared by JOBS processes with a thread each: tiny models gain nothing from a second thread.
# tests/conftest.py knows which files are long; pytest-xdist would begin with those of most tests.
test: export OMP_NUM_THREADS ?= 1
test: $(STAMP)
	$(BIN)/python -m pytest -m "not gpu and not slow and not browser" -n $(JOBS) --dist loadfile --no-loadscope-reorder \
	--durations 10 --durations-min 5

# Chromium for the tests of the page. Where there is none, root of a Debian system gets it.
browser:
	@.ci/browser

# The page in a browser. Pictures of its tabs go to out/screenshots, or to SCREENSHOTS.
test-browser: export OMP_NUM_THREADS ?= 1
test-browser: browser $(STAMP)
	$(BIN)/python -m pytest -m browser tests/app/browser $(AGAIN)

# The same under what makes matrix libraries round otherwise: instructions, threads, oneDNN and MKL.
SETTINGS := ATEN_CPU_CAPABILITY=default,OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2,MKL_CBWR=AVX2,OMP_NUM_THREADS=2 \
	ONEDNN_MAX_CPU_ISA=SSE41,MKL_CBWR=COMPATIBLE,OMP_NUM_THREADS=4
test-settings: $(STAMP)
	@for setting in $(SETTINGS); do \
	echo $$setting; env $$(echo $$setting | tr , ' ') $(MAKE) --no-print-directory test || exit 1; done

# The fast tests with the newest torch of the index and all else as pinned: an early word of what changes there. On Linux
# that is a CUDA build, some 3 GB with its libraries, which runs on a CPU as well.
test-newest-torch:
	$(PYTHON) -m venv $(NEWEST)
	sed '/^torch==/d; /^triton==/d' constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/pip install --quiet --disable-pip-version-check --upgrade -c $(NEWEST)/constraints.txt torch
	$(NEWEST)/bin/pip install --quiet --disable-pip-version-check -c $(NEWEST)/constraints.txt -e '.[dev]'
	@$(NEWEST)/bin/python -c "import torch; print('torch', torch.__version__)"
	$(NEWEST)/bin/python -m pytest -m "not gpu and not slow and not browser" $(TESTS)

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# A job whose workers are killed KILLS times, and what was lost.
soak: export OMP_NUM_THREADS ?= 1
soak: $(STAMP)
	$(BIN)/python -m tests.jobs.soak --kills $(or $(KILLS),1000)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-cpu: $(STAMP)
	$(BIN)/python -m bench.timing.guidance_cost --device cpu
	$(BIN)/python -m bench.timing.growth
	$(BIN)/python -m bench.timing.commands
	$(BIN)/python -m bench.timing.rectified_error

# bench.gpu knows the parts. Results go to OUT, and MINUTES=8 ends it in time.
OUT ?= out/gpu
GPU := $(BIN)/python -m bench.gpu --strict --minutes $(or $(MINUTES),60) --out $(OUT)

gpu: $(STAMP)
	$(GPU)

gpu-tests gpu-kernels gpu-blocks: gpu-%: $(STAMP)
	$(GPU) --only $*

# On a machine that is lent for minutes there may be no index, so nothing is set up: python3 with its torch will do,
# and wheels in .whl/ for what it lacks.
HERE := $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
gpu-quick gpu-fit:
	@$(HERE) -c "import torch" 2>/dev/null || { echo "error: $(HERE) has no torch; run make setup first"; exit 1; }
	$(HERE) -m bench.gpu $(if $(filter gpu-fit,$@),--fit $(OUT),--quick --minutes $(or $(MINUTES),8) --out $(OUT))

clean:
	rm -rf $(VENV) $(NEWEST) out dist build .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
