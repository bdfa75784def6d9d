# Everything a fresh machine needs: each target makes the virtual environment first, once.
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/sac/bipedal_walker.yaml

.PHONY: train test lint

train: $(VENV)/installed
	$(VENV)/bin/lightning-rl fit --config $(CONFIG)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@
