# Words for people; every target builds the virtual environment when it is missing or pyproject.toml changed.
PYTHON ?= python3
VENV ?= .venv
FLOOR_VENV ?= .venv-floor
DEMO ?= demo
RUN := $(VENV)/bin
STAMP := $(VENV)/.made-from-pyproject

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-floor check format bench wheel

help:  ## show these words
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "insloc_hub needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d; name another one: make PYTHON=python3.12 setup" % v)'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

setup: $(STAMP)  ## build the virtual environment

demo: $(STAMP)  ## pretrain, export, evaluate and serve a small backbone; ends with demo/report.html
	$(RUN)/insloc demo --out $(DEMO)

test: $(STAMP)  ## the fast tests
	$(RUN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-slow: $(STAMP)  ## the slow tests (wheel in a clean environment, the whole demo)
	$(RUN)/python -m pytest -m slow

test-floor:  ## the fast tests with the lowest declared versions
	$(MAKE) VENV=$(FLOOR_VENV) $(FLOOR_VENV)/.floor
	$(FLOOR_VENV)/bin/python -m pytest -m 'not slow' -n 2 --dist loadfile

$(FLOOR_VENV)/.floor: pyproject.toml
	$(PYTHON) -m venv $(FLOOR_VENV)
	$(FLOOR_VENV)/bin/python tests/floor.py > $(FLOOR_VENV)/floor.txt
	$(FLOOR_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(FLOOR_VENV)/floor.txt --editable '.[dev]'
	@touch $@

check: $(STAMP)  ## lint, format, types, import contracts
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: $(STAMP)  ## mend what lint and format can mend
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

bench: $(STAMP)  ## every benchmark; each ends with JSON lines
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	for file in $(filter-out benchmarks/reference_run.py,$(wildcard benchmarks/*.py)); do $(RUN)/python $$file || exit 1; done

wheel: $(STAMP)  ## build the wheel into dist/
	$(RUN)/python -m build --wheel --outdir dist
