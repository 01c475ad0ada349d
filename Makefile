# `make demo`, `make test` and `make quick` are all a newcomer needs; each sets up .venv on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Processes of pytest-xdist: one more than two processors, because tests of Ray wait for processes. Tests that judge time run afterwards, alone.
PROCESSES ?= 3
PYTEST := $(BIN)/python -m pytest
TOGETHER := --numprocesses $(PROCESSES) --dist worksteal

.PHONY: demo test quick gpu docs lint check together alone format clean

# A demo that was cut short goes on; remove results/demo for a new one.
demo: $(READY)
	@if [ -f results/demo/job.yaml ]; then $(BIN)/autocompress resume results/demo; \
	else $(BIN)/autocompress search search_spaces/demo.yaml; fi

# The linters read while tests wait. All parts run, whatever one of them says; `make` fails if any does.
test: $(READY)
	@status=0; \
	$(MAKE) --no-print-directory --keep-going --jobs=2 lint together || status=1; \
	$(MAKE) --no-print-directory alone || status=1; \
	exit $$status

# What they say comes at once, not line by line among the dots of tests.
lint: $(READY)
	@status=0; said=$$({ \
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports; } 2>&1) || status=1; \
	echo; echo "$$said"; exit $$status

check: $(READY)
	@status=0; \
	$(MAKE) --no-print-directory together || status=1; \
	$(MAKE) --no-print-directory alone || status=1; \
	exit $$status

together: $(READY)
	$(PYTEST) $(TOGETHER) -m "not timing"

# Only the files that have such tests are imported.
alone: $(READY)
	$(PYTEST) -m timing $$(grep -rl --include='test_*.py' 'mark\.timing' tests | sort)

# For use while programming: five to six minutes on two cores.
quick: $(READY)
	$(PYTEST) $(TOGETHER) -m "not slow and not timing"

# On a machine with a GPU: at most ten minutes.
gpu: $(READY)
	$(PYTEST) -m cuda
	$(BIN)/python benchmarks/gpu.py

# The site of the documents, in build/site; open build/site/index.html.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

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
