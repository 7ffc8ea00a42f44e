# The verbs of everyday work. `make` alone lists them; PYTHON names another interpreter.
PYTHON ?= .venv/bin/python
BIN := $(dir $(PYTHON))

.PHONY: help setup style types imports test fuzz bench check

help:  ## List the verbs.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

setup:  ## Make .venv and install gansdk with everything that development needs.
	python3 -m venv .venv && .venv/bin/pip install -e '.[dev]'

style:  ## Sort imports, format, and report what the linter finds.
	$(BIN)ruff check --fix
	$(BIN)ruff format

types:  ## Check types.
	$(BIN)mypy

imports:  ## Check who imports whom.
	$(BIN)lint-imports

test:  ## Run the tests without the long runs on real images.
	$(PYTHON) -m pytest -n 2 -m "not slow"

fuzz:  ## Draw twenty times as many hostile files, options and plugins, others each time.
	$(PYTHON) -m pytest tests/fuzz --hypothesis-profile=nightly -n 0 --timeout=7200

bench:  ## Time planning: the quickest of the benchmarks. docs/benchmarks.md has the others.
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(PYTHON) benchmarks/planning.py

check:  ## Everything a change must pass, from a fresh environment.
	.ci/run
