# make sweep: set everything up and run stage 1 on the embedded default.
# make test:  set everything up and run the tests.
# make gpu-test: set everything up and run the tests that need a GPU.
# make browser-test: install Chromium (as root), and look at MLflow's pages in it.
# make cluster-test: install what the tests of clusters need, and run them (as root).
# make faults: set everything up and fire 40 faults at real code (a few minutes); `make faults N=2000 SEED=1` takes hours.
# make goodput: set everything up and measure what a fault every 60 seconds costs a stage (ten minutes).
# make bench: set everything up and measure a training step against TRL's.
# make docs:  write docs/options.md from the programs' own help.
# make pictures: install Chromium (as root), and make the README's pictures from real stages.

PYTHON ?= python3.11
EXTRAS ?= dev
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TWO_AT_ONCE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: sweep test test-slow gpu-test faults goodput browser-test cluster-test bench docs pictures lint clean

sweep: $(READY)
	$(BIN)/mmpo stage1

test: $(READY) lint
	$(TWO_AT_ONCE) $(PYTEST_FLAGS) -m "not slow and not cluster and not browser and not gpu"

test-slow: $(READY)
	$(TWO_AT_ONCE) $(PYTEST_FLAGS) -m "slow and not cluster and not browser and not gpu"

gpu-test: $(READY)
	$(BIN)/python -m pytest -m gpu -rs --durations 10 tests/gpu

browser-test: $(READY)
	tests/browser/install $(BIN)
	$(BIN)/python -m pytest -m browser -rs

cluster-test: $(READY)
	tests/clusters/install $(BIN)
	$(BIN)/python -m pytest -m cluster -rs

faults: $(READY)
	$(BIN)/python -m faults --n $(or $(N),40) --seed $(or $(SEED),0) $(if $(CASES),--cases $(CASES))

goodput: $(READY)
	$(BIN)/python -m faults --goodput $(or $(EVERY),60)

bench: $(READY)
	$(BIN)/python benchmarks/step.py

docs: $(READY)
	$(BIN)/python makers/options.py

pictures: $(READY)
	tests/browser/install $(BIN)
	$(BIN)/python makers/pictures.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
