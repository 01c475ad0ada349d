# `make demo`, `make test` and `make quick` are all a newcomer needs; each sets up .venv on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Processes of pytest-xdist. Tests that judge time run afterwards, alone.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest
TOGETHER := --numprocesses $(PROCESSES) --dist worksteal

.PHONY: demo test quick gpu lint check format clean

# A demo that was cut short goes on; remove results/demo for a new one.
demo: $(READY)
	@if [ -f results/demo/job.yaml ]; then $(BIN)/autocompress resume results/demo; \
	else $(BIN)/autocompress search search_spaces/demo.yaml; fi

test: lint check

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Both parts run, whatever the first one says; `make` fails if either does.
check: $(READY)
	@status=0; \
	$(PYTEST) $(TOGETHER) -m "not timing" || status=1; \
	$(PYTEST) -m timing || status=1; \
	exit $$status

# For use while programming: under four minutes on two cores.
quick: $(READY)
	$(PYTEST) $(TOGETHER) -m "not slow and not timing"

# On a machine with a GPU: at most ten minutes.
gpu: $(READY)
	$(PYTEST) -m cuda
	$(BIN)/python benchmarks/gpu.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamp is written last, so an interrupted installation starts over.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
