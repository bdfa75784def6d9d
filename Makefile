# Everything a fresh machine needs: each target makes its virtual environment first, once.
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/sac/bipedal_walker.yaml
INSTALL = $(PYTHON) -m venv $(VENV) && $(VENV)/bin/python -m pip install --constraint constraints.txt --editable

.PHONY: train test lint

train: $(VENV)/installed
	$(VENV)/bin/lightning-rl fit --config $(CONFIG)

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(INSTALL) .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt
	$(INSTALL) '.[dev]'
	touch $@
