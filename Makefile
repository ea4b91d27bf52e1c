# make demo: set-up, then the quickstart.      make test: set-up, then the tests.      make check: what reads the code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-web test-ranges soak check format generate clean

help:
	@echo "make demo       install torso into $(VENV) and run the quickstart"
	@echo "make test       install with the test extra and run the tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make test-web   the playground in Chromium (Debian: apt-get install chromium)"
	@echo "make test-ranges  the tests with the lowest versions of all dependencies; one environment with others' packages"
	@echo "make soak       a million requests of every kind against a server"
	@echo "make check      ruff, mypy, generated code, the wire, import arrows, rooms"
	@echo "make format     let ruff format and fix"
	@echo "make generate   generate proto/ from its .proto files"
	@echo "make clean      remove $(VENV) and what tools left behind"

demo: $(VENV)/.demo
	$(BIN)/torso quickstart

test: $(VENV)/.test
	$(BIN)/pytest -m "not slow and not web" -n 2 --dist worksteal

test-slow: $(VENV)/.test
	$(BIN)/pytest -m slow

test-web: $(VENV)/.test-web
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
		|| { echo "make test-web needs Chromium; Debian: apt-get install chromium"; exit 2; }
	$(BIN)/pytest -m web tests/playground

test-ranges: $(VENV)/.test
	$(BIN)/python tests/version_ranges.py neighbours
	$(BIN)/python tests/version_ranges.py lowest

soak: $(VENV)/.test
	$(BIN)/python benchmarks/soak.py

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python proto/generate.py --check
	$(BIN)/python proto/check.py
	$(BIN)/pytest -q tests/test_arrows.py tests/test_rooms.py tests/test_mentions.py

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(VENV)/.test
	$(BIN)/python proto/generate.py

# A stamp a set-up: it is newer than what it was made from, so a second `make` installs nothing.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
		|| { echo "torso needs Python 3.11 to 3.13; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml setup.py constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml setup.py constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.test-web: $(VENV)/.test
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test-web]'
	@touch $@ $(VENV)/.test $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
