# Two commands set everything up from a fresh clone, with Python 3.11–3.13 and make: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export LEUK_TEST_DATA ?= $(abspath ../shared/data)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install demo test slow check bench docs faults fuzz lock audit clean

help:
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(STAMP) ## make .venv and install leuk with what demo, test and check need

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; name one with: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing leuk and what it needs (about 7 GB, 5.5 of it torch; once)"
	@$(BIN)/python -m pip install --quiet -e '.[offline-weights,parquet,test,check]'
	@touch $(STAMP)

demo: $(STAMP) ## run the main job on the drawn sample images, end to end
	@PATH="$(abspath $(BIN)):$$PATH" bash docs/demo.sh

test: $(STAMP) ## run the tests, all but the slow ones
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'not slow'

slow: $(STAMP) ## run the slow tests: a cluster, several processes, kills, the README in a shell, a thousand real images
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m slow

check: $(STAMP) ## format, lint, types, import contracts, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

docs: $(STAMP) ## generate docs/reference from the program itself
	$(BIN)/python docs/generate.py

faults: $(STAMP) ## kill, fill the disk, damage and fuzz, for real; some parts need root
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/fuzz.py

fuzz: $(STAMP) ## search for images that crash or hang the decoder, guided by coverage, until Ctrl-C (Linux, Python 3.11 to 3.13)
	@$(BIN)/python -m pip install --quiet 'atheris>=3'
	$(BIN)/python benchmarks/fuzz_decode.py

lock: $(STAMP) ## name one complete set of versions, those installed here, with hashes, in requirements.lock
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/python -m pip freeze --exclude-editable | grep == | sed 's/+cpu//' > $(VENV)/installed.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --generate-hashes --python-version 3.11 --no-annotate \
		--constraint $(VENV)/installed.txt --custom-compile-command 'make lock' --output-file requirements.lock --quiet

audit: $(STAMP) ## ask a public service for known faults in what requirements.lock names
	@$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement requirements.lock --disable-pip --require-hashes --strict

bench: $(STAMP) ## measure against peers in the same run
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/allocator.py
	$(BIN)/python benchmarks/compare_cost.py
	$(BIN)/python benchmarks/classify_speed.py
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/outputs.py

clean: ## remove what demo, test and check made, .venv too
	rm -rf $(VENV) leuk-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
