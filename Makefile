# Every target sets up first, which takes a moment when there is nothing to do. See docs/developing.md.

# The program and its tests need the GIL off before OpenSSL's bindings are imported (they would switch it on).
python := .venv/bin/python -X gil=0

# Most of the time the tests wait, so more of them at a time than there are cores. Somebody who asks for a few wants to see
# them as they come, perhaps with --pdb. Hundreds of poolers are started: without bytecode in files each would compile all.
JOBS ?= $(if $(ARGS),0,4)

.PHONY: help setup run test check format bench clean

help:
	@echo 'make run     a demo: PostgreSQL with pgdoorman in front of it, until Ctrl-C'
	@echo 'make test    every test, JOBS=4 at a time (ARGS="-k name": some of them, one at a time unless JOBS says more)'
	@echo 'make check   lint, format, types, and which way imports go'
	@echo 'make format  put the format right and mend what lint can mend'
	@echo 'make bench   side-by-side benchmark       (ARGS="--help" lists its options)'
	@echo 'make setup   only make .venv              make clean   remove .venv and the caches in the tree'

setup:
	@bash .ci/setup

run: setup
	@.venv/bin/pgdoorman demo $(ARGS)

test: setup
	PYTHONDONTWRITEBYTECODE= $(python) -m pytest -q -n $(JOBS) $(ARGS)

check: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	$(python) -m pytest -q tests/unit/test_floors.py

format: setup
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

bench: setup
	$(python) -m bench.macro $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
