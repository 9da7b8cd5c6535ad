# Two commands do everything on a fresh machine: `make demo` and `make test`. Each sets up its own environment when missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-slow check setup clean
.DEFAULT_GOAL := demo

setup: $(VENV)/.installed

# The environment is rebuilt into place whole: a killed installation leaves no stamp and is done again.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dailies needs Python 3.11 or newer: make PYTHON=python3.12 demo")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python scripts/demo.py

test: setup
	scripts/check

test-slow: setup
	$(BIN)/python -m pytest -m 'slow or gpu'

check: test

clean:
	rm -rf work/demo data/footage .pytest_cache .ruff_cache
