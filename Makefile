# After cloning: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
# Two processes: one for the tests of flows, which often wait, and one for the others.
PARALLEL := -n 2

.DEFAULT_GOAL := help
.PHONY: help setup demo docs test quick lint clean

help:
	@echo "make setup  install the package and its test dependencies in .venv"
	@echo "make demo   train two small models, analyse all their checkpoints, report what formed when"
	@echo "make docs   build the documentation site in site/"
	@echo "make lint   check style and types"
	@echo "make test   check style and types, then run all tests"
	@echo "make quick  the same without tests that start servers, Ray, Prefect or training"
	@echo "make clean  remove the environment and everything that the demo and tests wrote"

# Reinstall only when the requirements change.
.venv/ready: pyproject.toml constraints.txt
	@echo "==> setting up .venv (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, found {v.major}.{v.minor}: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,test,docs]'
	@touch $@

setup: .venv/ready

demo: setup
	@echo "==> demo: train, analyse, report"
	@$(BIN)/ontogeny demo

docs: setup
	@echo "==> documentation site"
	@$(BIN)/mkdocs build --strict
	@echo "open site/index.html"

lint: setup
	@echo "==> style (ruff) and types (pyright)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

test: lint
	@echo "==> tests (pytest)"
	@$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGUMENTS)

quick: lint
	@echo "==> quick tests (pytest)"
	@$(BIN)/pytest $(PARALLEL) -m "not slow" $(PYTEST_ARGUMENTS)

clean:
	rm -rf .venv demo site .pytest_cache .ruff_cache .hypothesis ontogeny.egg-info
